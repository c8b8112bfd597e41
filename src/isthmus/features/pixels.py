"""Training from pixels: the counterpart of stored patches, for the same loaders."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from isthmus.data.image import open_image
from isthmus.data.loader import crop_draws
from isthmus.records import Example
from isthmus.vision.encoder import Preprocessing


@dataclass(frozen=True)
class PixelLook:
    """Rows see their picture's pixels: a `Look` for the loaders of `isthmus.data`.

    With a `seed`, training: a crop drawn by (seed, epoch, index), with an area share in `scale`, mirrored half of the
    time with `flip`, its colours changed by up to `colour`. Without, evaluation: the centre view.
    """

    preprocessing: Preprocessing
    seed: int | None
    scale: tuple[float, float] = (0.5, 1.0)
    flip: bool = False
    colour: float = 0.0

    def __call__(self, example: Example, index: int, epoch: int) -> Float[Tensor, "3 S S"]:
        """Read row `index`; raises DataError naming a picture that is missing, broken or too large."""
        picture = open_image(example.image)
        if self.seed is None:
            return self.preprocessing.centre(picture)
        draws = crop_draws(self.seed, epoch, index)
        return self.preprocessing.crop(picture, draws, scale=self.scale, flip=self.flip, colour=self.colour)

"""The contract of an image encoder: its own preprocessing, and pixels to patches, always frozen."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from isthmus.errors import TowerError
from isthmus.frozen import FrozenModule

INTERPOLATIONS = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}
CROP_DRAWS = 8
_ASPECTS = (3 / 4, 4 / 3)
_COLOURS = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)
_LONGEST = 16


@dataclass(frozen=True)
class Preprocessing:
    """How one encoder wants its pictures; part of the key of every stored feature.

    `size` is the side S in pixels; `mean` and `std` are per channel, for values in [0, 1]. The centre view
    resizes the short side to size / crop_share and cuts the middle out, or, with `squash`, resizes the whole
    picture to the square as BLIP-2 does. Of a picture longer than 16 : 1 only the middle 16 : 1 are resized.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop_share: float = 1.0
    squash: bool = False

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            known = " or ".join(sorted(INTERPOLATIONS))
            raise TowerError(f"interpolation {self.interpolation!r} is not supported: use {known}.")
        if not 0 < self.crop_share <= 1:
            raise TowerError(f"crop_share {self.crop_share} is not in (0, 1].")

    def centre(self, image: Image.Image) -> Float[Tensor, "3 S S"]:
        """Turn an RGB picture into its one fixed view, normalised."""
        resized = [self.size, self.size] if self.squash else [math.floor(self.size / self.crop_share + 1e-6)]
        view = F.resize(image if self.squash else _without_ends(image), resized, INTERPOLATIONS[self.interpolation])
        return self._normalise(F.center_crop(view, [self.size, self.size]))

    def crop(
        self,
        image: Image.Image,
        draws: Sequence[float],
        *,
        scale: tuple[float, float] = (0.5, 1.0),
        flip: bool,
        colour: float = 0.0,
    ) -> Float[Tensor, "3 S S"]:
        """Cut a rectangle out of an RGB picture, resize it to the square and normalise it.

        A pure function of eight draws in (0, 1): area (a share of the picture's, in `scale`), log-aspect (3:4 to
        4:3), left, top, mirror (below 0.5, where `flip` allows it), and the factors of brightness, contrast and
        saturation, each from 1 - `colour` to 1 + `colour`. A rectangle longer than the picture is cut to it, where
        torchvision's RandomResizedCrop would draw again; colours change as by its ColorJitter, in this order.
        """
        if len(draws) != CROP_DRAWS:
            raise ValueError(f"a crop takes {CROP_DRAWS} draws, not {len(draws)}")
        area, aspect, left, top, mirror, *factors = draws
        pixels = image.width * image.height * (scale[0] + area * (scale[1] - scale[0]))
        low, high = (math.log(bound) for bound in _ASPECTS)
        ratio = math.exp(low + aspect * (high - low))
        width = max(1, min(image.width, round(math.sqrt(pixels * ratio))))
        height = max(1, min(image.height, round(math.sqrt(pixels / ratio))))
        corner = (math.floor(top * (image.height - height + 1)), math.floor(left * (image.width - width + 1)))
        square, interpolation = [self.size, self.size], INTERPOLATIONS[self.interpolation]
        view = F.resized_crop(image, *corner, height, width, square, interpolation)
        for adjust, factor in zip(_COLOURS, factors, strict=True):
            view = adjust(view, 1 + colour * (2 * factor - 1)) if colour else view
        return self._normalise(F.horizontal_flip(view) if flip and mirror < 0.5 else view)

    def as_json(self) -> dict[str, Any]:
        """Every field, as JSON holds it."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def _normalise(self, view: Image.Image) -> Float[Tensor, "3 S S"]:
        pixels = F.to_dtype(F.pil_to_tensor(view), torch.float32, scale=True)
        normalised: Tensor = F.normalize(pixels, list(self.mean), list(self.std))
        return normalised


def _without_ends(image: Image.Image) -> Image.Image:
    """Cut a strip's far ends off, equally much of both: resized as a whole, 10,000 x 1 pixels would fill gigabytes.

    Only the middle square is looked at afterwards, and no filter reaches so far.
    """
    across, down = (max(0, long - _LONGEST * short) // 2 for long, short in (image.size, image.size[::-1]))
    return image.crop((across, down, image.width - across, image.height - down)) if across or down else image


class Encoder(FrozenModule, ABC):
    """A frozen image encoder: pixels to patches.

    `width` is V; `address` says where the weights came from (`hub:name@revision`, `package:...`, `folder:...`
    or `file:...`); `preprocessing` is what its pictures must pass through. A subclass sets the three and writes
    `encode`. `image_size` and `squash` are those of its pictures where they are not the encoder's own.
    """

    width: int
    address: str
    hidden_layer: int | None = None
    image_size: int | None = None
    squash: bool | None = None
    preprocessing: Preprocessing

    def forward(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B P V"]:
        """Encode pictures, without gradient, in the dtype of the encoder's own weights.

        Not inference mode: the bridge must be able to save the patches for its backward pass.
        """
        with torch.no_grad(), self.own_precision():
            return self.encode(pixels.to(next(self.parameters()).dtype)).contiguous()

    @abstractmethod
    def encode(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B P V"]:
        """Encode pictures that are already in the weights' dtype."""

    def take_squashed(self, squash: bool) -> None:
        """Take whole pictures squashed to the square, or their middle cut out, whatever is the encoder's own way."""
        if squash != self.preprocessing.squash:
            self.preprocessing = replace(self.preprocessing, squash=squash, crop_share=1.0)
            self.squash = squash

    def probe(self) -> int:
        """Encode one blank picture and return the width V of what comes out.

        Raises TowerError where that is no sequence of patches.
        """
        side = self.preprocessing.size
        parameter = next(self.parameters())
        blank = torch.zeros(1, 3, side, side, dtype=parameter.dtype, device=parameter.device)
        with torch.no_grad():
            patches = self.encode(blank)
        if patches.ndim != 3:
            shape = tuple(patches.shape)
            raise TowerError(f"encoder {self.address} gives an output of shape {shape}, not patches (B P V).")
        return patches.shape[-1]


def map_to_patches(features: Float[Tensor, "B V h w"]) -> Float[Tensor, "B P V"]:
    """Read a feature map row by row as P = h·w patches; free of copies where it is channels-last."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)

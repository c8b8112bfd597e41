"""What people pass as pictures → RGB pictures, by the rules of `isthmus.data.image`.

| given | read as |
|---|---|
| str, Path | a picture file |
| PIL image | any mode that a file may have |
| NumPy array (H W), (H W 1), (H W 3), (H W 4) | channels last: greyscale, RGB, RGB with alpha |
| tensor (H W), (1 H W), (3 H W), (4 H W) | channels first: greyscale, RGB, RGB with alpha |
| array or tensor with one axis more in front | several pictures |
| list, tuple, or anything else that can be gone through | several pictures |
| `Prepared` | what `Predictor.prepare` made of one picture |
| `Encoded` | what `Predictor.encode` made of one or several; of one, it may stand in a list |

Pixels are uint8, or floating point in [0, 1]. All else is refused, with its shape or its range.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from isthmus.data.image import as_rgb, open_image
from isthmus.encoded import Encoded
from isthmus.errors import ConfigError, DataError
from isthmus.vision.encoder import Preprocessing


@dataclass(frozen=True, eq=False)
class Prepared:
    """One picture as an image encoder reads it, and the preprocessing that made it so: pictures are prepared ahead."""

    pixels: Float[Tensor, "3 S S"]
    by: Preprocessing


OneImage = str | Path | Image.Image | NDArray[Any] | Tensor | Prepared
Images = OneImage | Iterable[OneImage | Encoded] | Encoded

_KINDS = "paths, PIL images, arrays or tensors"
_CHANNELS = (1, 3, 4)


def is_one(images: Any) -> bool:
    """True for one picture; False for several (a list of one included) and for what is none."""
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim < 4
    return images.single if isinstance(images, Encoded) else isinstance(images, str | Path | Image.Image | Prepared)


def as_pictures(images: Any) -> Iterator[Image.Image | Prepared]:
    """Give the pictures one by one, upright RGB or prepared; raises `DataError` naming the first that is none."""
    if is_one(images):
        yield images if isinstance(images, Prepared) else as_picture(images, "the picture")
        return
    if isinstance(images, Mapping | bytes) or not isinstance(images, Iterable):
        raise DataError(f"{_kind(images)} is no picture; give {_KINDS}, one or a list")
    number = -1
    for number, image in enumerate(images):
        yield image if isinstance(image, Prepared) else as_picture(image, f"picture {number}")
    if number < 0:
        raise DataError(f"there is no picture in what was given; give {_KINDS}, one or a list")


def prepared(picture: Image.Image | Prepared, by: Preprocessing) -> Prepared:
    """Bring an RGB picture into an encoder's form; raises `ConfigError` for one that has another encoder's already."""
    if not isinstance(picture, Prepared):
        return Prepared(by.centre(picture), by)
    if picture.by != by:
        raise ConfigError("this picture was prepared for another image encoder; prepare it with this predictor")
    return picture


def with_encoded(images: Any, encode: Callable[[Any], Encoded]) -> Any:
    """Make a list that has encoded pictures in it one `Encoded`, by way of `encode`; give anything else as it is.

    Raises `DataError` where one of the list is several pictures, or none.
    """
    if not isinstance(images, list | tuple) or not any(isinstance(image, Encoded) for image in images):
        return images
    parts = [
        encode(
            image if isinstance(image, Encoded | Prepared) and is_one(image) else as_picture(image, f"picture {number}")
        )
        for number, image in enumerate(images)
    ]
    return Encoded.join(parts, single=False)


def for_each(texts: Any, images: Any, *, what: str) -> Any:
    """Hold a list of texts against the pictures, which are listed where they could be gone through only once.

    Raises `ConfigError` where they are no texts, or not one for each picture; `what` says what a text is.
    """
    if not isinstance(texts, Sequence) or not all(isinstance(one, str) for one in texts):
        raise ConfigError(
            f"{what} is neither a string nor a list of strings; give one for all, or one for each picture"
        )
    held = images if is_one(images) or isinstance(images, Sized) else list(images)
    count = 1 if is_one(held) else len(held)
    if len(texts) != count:
        raise ConfigError(f"there are {len(texts)} {what}s for {count} pictures; give one for all, or one for each")
    return held


def as_picture(image: Any, name: str) -> Image.Image:
    """Read one picture as upright RGB; `name` begins the sentence of a `DataError` about one that is no file."""
    if isinstance(image, str | Path):
        return open_image(Path(image).expanduser())
    if isinstance(image, Image.Image):
        return as_rgb(image, name)
    if isinstance(image, Encoded) or not is_one(image):
        raise DataError(f"{name} is {_kind(image)} and no picture; give {_KINDS}, one or a flat list")
    pixels = _channels_last(image) if isinstance(image, Tensor) else image
    grey, coloured = pixels.ndim == 2, pixels.ndim == 3 and pixels.shape[2] in _CHANNELS
    if not pixels.size or not (grey or coloured):
        form = "(3 H W) as a tensor" if isinstance(image, Tensor) else "(H W 3) as an array"
        raise DataError(f"{name} has the shape {tuple(image.shape)}; a picture is {form}, or (H W) where it is grey")
    squeezed = pixels[..., 0] if coloured and pixels.shape[2] == 1 else pixels
    return as_rgb(Image.fromarray(_as_bytes(squeezed, name)), name)


def _channels_last(image: Tensor) -> NDArray[Any]:
    host = image.detach().cpu()
    host = host.float() if host.is_floating_point() else host  # NumPy knows no bf16
    return (host.movedim(0, -1) if host.ndim == 3 else host).numpy()


def _as_bytes(pixels: NDArray[Any], name: str) -> NDArray[Any]:
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise DataError(f"{name} has pixels of type {pixels.dtype}; give uint8, or floating point in [0, 1]")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # so that a value that is no number is refused too
        raise DataError(f"{name} has pixels from {low:g} to {high:g}; floating point is in [0, 1], uint8 in [0, 255]")
    scaled: NDArray[Any] = np.rint(pixels.astype(np.float32) * 255).astype(np.uint8)
    return scaled


def _kind(thing: Any) -> str:
    shape = f" of shape {tuple(thing.shape)}" if isinstance(thing, np.ndarray | Tensor) else ""
    return f"{type(thing).__name__}{shape}"

"""Pictures as they stand in the report: small WebP files inside the page, and attention laid over a drawing."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from isthmus.data.image import open_image

_QUALITY = 82
_VEIL, _LEAST = (18, 26, 58), 0.1  # what is not looked at lies under dark blue, and is still to be made out


def thumbnail(picture: Path, pixels: int) -> str:
    """A picture as a data URI of at most `pixels` square; raises DataError where it cannot be read."""
    return _data_uri(_small(picture, pixels))


def spotlight(picture: Path, attention: Sequence[float], side: int, pixels: int) -> str:
    """A picture under a veil that is open where a query looks, as a data URI.

    The `side` x `side` map is scaled by its own largest value and drawn up bicubically. Raises DataError where the
    picture cannot be read.
    """
    image = _small(picture, pixels)
    grid = np.asarray(attention, dtype=np.float32).reshape(side, side)
    drawn_up = Image.fromarray(grid / grid.max()).resize(image.size, Image.Resampling.BICUBIC)
    light = (_LEAST + (1 - _LEAST) * np.asarray(drawn_up).clip(0, 1))[..., None]
    seen = light * np.asarray(image, dtype=np.float32) + (1 - light) * np.asarray(_VEIL, dtype=np.float32)
    return _data_uri(Image.fromarray(seen.round().astype(np.uint8)))


def _small(picture: Path, pixels: int) -> Image.Image:
    image = open_image(picture)
    image.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    return image


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"

"""One picture → one upright RGB picture, the same in training, evaluation, commands and Python.

| given | becomes |
|---|---|
| EXIF orientation | turned upright |
| alpha (RGBA, LA, a transparent colour in P, L or RGB) | composited on white |
| 1, L, CMYK, YCbCr, LAB | RGB |
| I;16 | scaled by 1/257, so that 65535 is white |
| several frames | the first |
| I, F (32-bit) | refused: their white is not defined |

Untrusted files are met at the header: only the formats below are tried, and the caps on pixels are checked
before anything is decoded.
"""

import struct
from io import BufferedReader, BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from isthmus.errors import DataError
from isthmus.records import PictureBytes

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""How names of pictures end, in either case."""

MAX_PIXELS = 89_478_485
"""Pixels a picture may have, by its header: Pillow's own limit, so that its warning never stands alone."""

MAX_SIDE = 65_535
"""Pixels a side may have: what a JPEG can hold. Strips beyond would fill the memory when they are resized."""

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(picture: Path | PictureBytes) -> Image.Image:
    """Read a picture, a file or one that lies within another file, as upright RGB.

    Raises DataError, naming the picture, for one that is missing, broken, of another format or too large.
    """
    name = str(picture)
    try:
        if not isinstance(picture, Path):
            return decode_image(BytesIO(picture.read_bytes()), name)
        with picture.open("rb") as stream:
            return decode_image(stream, name)
    except OSError as error:
        raise DataError(f"{name}: the picture cannot be read ({error.strerror or error}).") from error


def decode_image(stream: BufferedReader | BytesIO, name: str) -> Image.Image:
    """Read a picture from an open file, for example an upload, as upright RGB.

    Raises DataError, beginning with `name`, for what is broken, of another format or too large.
    """
    try:
        with Image.open(stream, formats=FORMATS) as image:
            return as_rgb(image, name)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, f"{error}".split(",")[0]) from error
    except UnidentifiedImageError as error:
        formats = ", ".join(FORMATS)
        raise DataError(f"{name}: this is no picture in one of the formats {formats}.") from error
    except Exception as error:  # decoders meet broken bytes with nearly every kind of exception
        raise _broken(name, error) from error


def as_rgb(picture: Image.Image, name: str = "the picture") -> Image.Image:
    """Give a picture that Pillow holds already, open or made by hand, the same upright RGB form.

    Raises DataError, beginning with `name`, for one that is broken, too large, without pixels or of 32 bits.
    """
    _check_size(picture.size, name)
    try:
        picture.load()
        return _to_rgb(_upright(picture), name)
    except DataError:
        raise
    except Exception as error:  # a picture that was opened from a file is decoded here
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> DataError:
    return DataError(f"{name}: the picture is broken ({error}); replace it or remove it.")


def _check_size(size: tuple[int, int], name: str) -> None:
    if not size[0] * size[1]:
        raise DataError(f"{name}: the picture has no pixels ({size[0]} x {size[1]}); leave it out.")
    if size[0] * size[1] > MAX_PIXELS:
        raise _too_large(name, f"{size[0]} x {size[1]}")
    if max(size) > MAX_SIDE:
        raise DataError(f"{name}: the picture has a side of {max(size):,} pixels, above {MAX_SIDE:,}; cut it.")


def _too_large(name: str, found: str) -> DataError:
    return DataError(f"{name}: the picture has more than {MAX_PIXELS:,} pixels ({found}); scale it down.")


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; an unreadable EXIF block counts as none."""
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except (OSError, SyntaxError, ValueError, struct.error):
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.float32)
        image = Image.fromarray(np.rint(levels / 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise DataError(
            f"{name}: the picture has 32-bit pixels, whose white is not defined; save it with 8 or 16 bits."
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from isthmus.data.image import FORMATS, MAX_PIXELS, SUFFIXES, as_rgb, decode_image, open_image
from isthmus.errors import DataError


def saved(folder, image, name="x.png", **options):
    path = folder / name
    image.save(path, **options)
    return path


def pixel(path, at=(0, 0)):
    image = open_image(path)
    assert image.mode == "RGB"
    return image.getpixel(at)


def test_alpha_is_laid_on_white(tmp_path):
    clear_red = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert pixel(saved(tmp_path, clear_red)) == (255, 255, 255)
    assert pixel(saved(tmp_path, Image.new("RGBA", (2, 2), (255, 0, 0, 255)))) == (255, 0, 0)
    assert pixel(saved(tmp_path, Image.new("LA", (2, 2), (0, 0)))) == (255, 255, 255)
    assert pixel(saved(tmp_path, Image.new("RGBA", (2, 2), (0, 0, 0, 51)))) == (204, 204, 204)


def test_transparent_palette_and_colour_are_laid_on_white(tmp_path):
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    path = saved(tmp_path, palette, transparency=0)
    assert (pixel(path), pixel(path, (1, 0))) == ((255, 255, 255), (0, 0, 255))
    assert pixel(saved(tmp_path, Image.new("L", (1, 1), 9), transparency=9)) == (255, 255, 255)
    assert pixel(saved(tmp_path, Image.new("RGB", (1, 1), (9, 9, 9)), transparency=(9, 9, 9))) == (255,) * 3


def test_grey_binary_and_cmyk_become_rgb(tmp_path):
    assert pixel(saved(tmp_path, Image.new("L", (1, 1), 77))) == (77, 77, 77)
    assert pixel(saved(tmp_path, Image.new("1", (1, 1), 1))) == (255, 255, 255)
    assert pixel(saved(tmp_path, Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "x.tiff")) == (255, 0, 0)


@pytest.mark.parametrize("name", ["x.png", "x.tiff"])
def test_16_bits_are_scaled(tmp_path, name):
    levels = np.array([[0, 257, 32_896, 65_535]], dtype=np.uint16)
    image = open_image(saved(tmp_path, Image.fromarray(levels), name))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_32_bits_are_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.ones((1, 1), dtype=np.float32)), "x.tiff")
    with pytest.raises(DataError, match=r"x\.tiff: the picture has 32-bit pixels.*save it with 8 or 16"):
        open_image(path)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.tiff"])
@pytest.mark.parametrize(("orientation", "corner"), [(1, 0), (2, 1), (3, 2), (4, 3), (5, 0), (6, 3), (7, 2), (8, 1)])
def test_exif_orientation_is_applied(tmp_path, name, orientation, corner):
    """The upper left corner of the upright picture is the stored one counted clockwise."""
    corners = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    stored = Image.new("RGB", (32, 16))
    for colour, at in zip(corners, [(0, 0), (16, 0), (16, 8), (0, 8)], strict=True):
        stored.paste(colour, (*at, at[0] + 16, at[1] + 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = open_image(saved(tmp_path, stored, name, exif=exif))
    assert upright.size == ((32, 16) if orientation < 5 else (16, 32))
    found = np.array(upright.getpixel((2, 2)), dtype=int)
    assert np.abs(found - corners[corner]).max() < 40


def test_broken_exif_counts_as_none(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (4, 2)), "x.jpg", exif=b"Exif\0\0nonsense")
    assert open_image(path).size == (4, 2)


@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.png", "x.tiff"])
def test_first_frame(tmp_path, name):
    first, second = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")
    path = saved(tmp_path, first, name, save_all=True, append_images=[second])
    assert min(pixel(path)) > 250


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bits_are_refused_in_python_too(mode):
    with pytest.raises(DataError, match=r"^the picture: the picture has 32-bit pixels, whose white is not"):
        as_rgb(Image.new(mode, (2, 2)))


def test_a_picture_in_memory_takes_the_same_form_as_its_file(tmp_path):
    palette = Image.new("RGBA", (3, 2), (255, 0, 0, 0)).quantize(4)
    deep = Image.fromarray(np.array([[0, 257, 65_535]], dtype=np.uint16))
    turned = Image.open(saved(tmp_path, exif_of(6, Image.new("RGB", (4, 2))), "turned.png"))
    for number, image in enumerate(
        [palette, deep, turned, Image.new("LA", (2, 2), (9, 128)), Image.new("1", (2, 2), 1)]
    ):
        path = saved(tmp_path, image, f"{number}.png")
        mode, size = image.mode, image.size
        assert np.array_equal(as_rgb(image), open_image(path))
        assert (image.mode, image.size) == (mode, size), "the caller's picture stays as it is"
    cmyk = as_rgb(Image.new("CMYK", (1, 1), (0, 255, 255, 0)))
    assert (cmyk.mode, cmyk.getpixel((0, 0))) == ("RGB", (255, 0, 0))


def exif_of(orientation, image):
    image.getexif()[0x0112] = orientation
    return image


def test_a_picture_in_memory_that_is_cut_short_or_has_no_pixels(tmp_path):
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "PNG")
    cut = Image.open(io.BytesIO(whole.getvalue()[:1500]))
    with pytest.raises(DataError, match=r"^photo: the picture is broken \(.*\); replace it"):
        as_rgb(cut, "photo")
    with pytest.raises(DataError, match=r"^the picture: the picture has no pixels \(0 x 5\); leave it out"):
        as_rgb(Image.new("RGB", (0, 5)))
    with pytest.raises(DataError, match=r"more than 89,478,485 pixels \(89478486 x 1\)"):
        as_rgb(Image.new("L", (MAX_PIXELS + 1, 1)))
    with pytest.raises(DataError, match=r"has a side of 65,536 pixels, above 65,535; cut it"):
        as_rgb(Image.new("L", (1, 65_536)))


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000)])
def test_odd_sizes_open(tmp_path, size):
    assert open_image(saved(tmp_path, Image.new("RGB", size))).size == size


def png(width, height):
    """A PNG whose header claims a size; no pixel stands behind it."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(20_000, 20_000), (13_000, 13_000), (MAX_PIXELS // 1000 + 1, 1000)])
def test_bombs_are_refused_by_their_header(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*size))
    with pytest.raises(DataError, match=r"bomb\.png: the picture has more than 89,478,485 pixels .*scale it"):
        open_image(path)


def test_own_cap_does_not_lean_on_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(DataError, match=r"\(20000 x 20000\); scale it down\.$"):
        decode_image(io.BytesIO(png(20_000, 20_000)), "upload")


def test_broken_files_are_named(tmp_path):
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "PNG")
    cases = {
        "empty.jpg": (b"", r"empty\.jpg: this is no picture in one of the formats JPEG, PNG"),
        "page.jpg": (b"<html></html>", r"page\.jpg: this is no picture"),
        "cut.png": (whole.getvalue()[:1500], r"cut\.png: the picture is broken \(.*\); replace it"),
    }
    for name, (content, match) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=match):
            open_image(tmp_path / name)
    with pytest.raises(DataError, match=r"none\.jpg: the picture cannot be read \(No such file"):
        open_image(tmp_path / "none.jpg")
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        open_image(tmp_path)


@pytest.mark.parametrize("format_name", ["EPS", "PPM", "ICO"])
def test_other_formats_are_refused(tmp_path, format_name):
    path = saved(tmp_path, Image.new("RGB", (16, 16)), "x.jpg", format=format_name)
    with pytest.raises(DataError, match="this is no picture in one of the formats"):
        open_image(path)


def test_names_of_pictures_are_those_of_the_formats_that_are_read():
    known = Image.registered_extensions()
    assert {known[suffix] for suffix in SUFFIXES} == set(FORMATS)

"""What people pass as pictures: every form gives the same picture; what is none is refused by its shape or range."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from isthmus.errors import DataError
from isthmus.images import as_picture, as_pictures, is_one

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
FORMS = {
    "PIL": lambda: Image.fromarray(PIXELS),
    "array": lambda: PIXELS,
    "array, not contiguous": lambda: np.asfortranarray(PIXELS),
    "array of floats": lambda: PIXELS / 255,
    "array of half floats": lambda: (PIXELS / 255).astype(np.float16),
    "array with full alpha": lambda: np.concatenate([PIXELS, np.full((6, 9, 1), 255, np.uint8)], axis=2),
    "tensor": lambda: torch.from_numpy(PIXELS).movedim(-1, 0),
    "tensor of floats": lambda: (torch.from_numpy(PIXELS).movedim(-1, 0) / 255).requires_grad_(),
    "tensor with full alpha": lambda: torch.cat(
        [torch.from_numpy(PIXELS).movedim(-1, 0), torch.full((1, 6, 9), 255, dtype=torch.uint8)]
    ),
}


def pixels_of(picture):
    assert picture.mode == "RGB"
    return np.asarray(picture)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_one_picture_is_the_same_picture(form):
    given = FORMS[form]()
    assert is_one(given)
    (picture,) = as_pictures(given)
    np.testing.assert_array_equal(pixels_of(picture), PIXELS)


def test_a_file_is_a_picture_by_path_or_string(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for given in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert is_one(given)
        np.testing.assert_array_equal(pixels_of(as_picture(given, "x")), PIXELS)


@pytest.mark.parametrize(
    "grey",
    [
        PIXELS[..., 0],
        PIXELS[..., :1],
        torch.from_numpy(PIXELS[..., 0].copy()),
        torch.from_numpy(PIXELS[..., 0].copy())[None],
        torch.from_numpy(PIXELS[..., 0] / 255),
    ],
    ids=["H W", "H W 1", "tensor H W", "tensor 1 H W", "floats"],
)
def test_grey_pictures_have_three_equal_channels(grey):
    np.testing.assert_array_equal(pixels_of(as_picture(grey, "x")), PIXELS[..., :1].repeat(3, axis=2))


def test_alpha_is_composited_on_white_and_orientation_is_applied():
    clear = np.zeros((2, 2, 4), np.uint8)
    assert (pixels_of(as_picture(clear, "x")) == 255).all()
    upright = Image.fromarray(PIXELS)
    upright.getexif()[0x0112] = 6
    assert as_picture(upright, "x").size == (6, 9)


@pytest.mark.parametrize(
    "several",
    [
        [PIXELS, PIXELS[..., 0]],
        (PIXELS, FORMS["PIL"]()),
        np.stack([PIXELS, PIXELS]),
        torch.stack([FORMS["tensor"](), FORMS["tensor"]()]),
        iter([PIXELS, PIXELS]),
    ],
    ids=["list", "tuple", "array", "tensor", "iterator"],
)
def test_several_pictures(several):
    assert not is_one(several)
    pictures = list(as_pictures(several))
    assert len(pictures) == 2
    np.testing.assert_array_equal(pixels_of(pictures[0]), PIXELS)


def test_pictures_are_read_one_by_one():
    def endless():
        while True:
            yield PIXELS

    pictures = as_pictures(endless())
    assert next(pictures).size == next(pictures).size == (9, 6)


WRONG = {
    "channels first in an array": (np.zeros((3, 6, 9), np.uint8), r"the picture has the shape \(3, 6, 9\).*\(H W 3\)"),
    "channels last in a tensor": (torch.zeros(6, 9, 3), r"the picture has the shape \(6, 9, 3\).*\(3 H W\)"),
    "two channels": (np.zeros((6, 9, 2), np.uint8), r"the shape \(6, 9, 2\)"),
    "one axis": (np.zeros(9, np.uint8), r"the shape \(9,\)"),
    "no pixels": (np.zeros((0, 9, 3), np.uint8), r"the shape \(0, 9, 3\)"),
    "five axes": (torch.zeros(1, 1, 3, 6, 9), r"picture 0 is Tensor of shape \(1, 3, 6, 9\)"),
    "floats of bytes": (PIXELS.astype(np.float32), r"pixels from 0 to 249; floating point is in \[0, 1\]"),
    "normalised": (torch.full((3, 6, 9), -1.5), r"pixels from -1.5 to -1.5"),
    "no numbers": (np.full((6, 9), np.nan), r"pixels from nan to nan"),
    "wide integers": (PIXELS.astype(np.int64), r"pixels of type int64; give uint8"),
    "a nested list": ([[PIXELS]], r"picture 0 is list and no picture; .* flat list"),
    "a number": (3, r"int is no picture"),
    "bytes": (b"PNG", r"bytes is no picture"),
    "a mapping": ({"image": PIXELS}, r"dict is no picture"),
    "None": (None, r"NoneType is no picture"),
    "an empty list": ([], r"there is no picture"),
    "the second": ([PIXELS, np.zeros((6, 9, 5), np.uint8)], r"picture 1 has the shape \(6, 9, 5\)"),
    "32 bits": (Image.new("F", (3, 3)), r"the picture: the picture has 32-bit pixels"),
    "a path to nothing": (Path("/nowhere/a.png"), r"/nowhere/a.png: the picture cannot be read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_picture_is_refused_in_one_sentence(case):
    given, message = WRONG[case]
    with pytest.raises(DataError, match=message):
        list(as_pictures(given))

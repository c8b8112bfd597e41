from pathlib import Path

import pytest
import torch

from isthmus.data.image import open_image
from isthmus.data.loader import crop_draws
from isthmus.errors import DataError
from isthmus.features.pixels import PixelLook
from isthmus.records import Example
from quadrants import FakeEncoder

PREPROCESSING = FakeEncoder().preprocessing


def test_evaluation_sees_the_centre(pictures):
    look = PixelLook(PREPROCESSING, seed=None)
    seen = look(Example(pictures[0], "x", ("x",)), 0, 5)
    assert torch.equal(seen, PREPROCESSING.centre(open_image(pictures[0])))


def test_training_sees_a_crop_of_seed_epoch_and_index(pictures):
    example = Example(pictures[0], "x", ("x",))
    look = PixelLook(PREPROCESSING, seed=3, scale=(0.2, 0.4), flip=True, colour=0.3)
    picture, draws = open_image(pictures[0]), crop_draws(3, 1, 2)
    wanted = PREPROCESSING.crop(picture, draws, scale=(0.2, 0.4), flip=True, colour=0.3)
    assert torch.equal(look(example, 2, 1), wanted)
    assert not torch.equal(look(example, 2, 2), wanted) and not torch.equal(look(example, 1, 1), wanted)


def test_a_missing_picture_is_named():
    with pytest.raises(DataError, match=r"none\.png: the picture cannot be read"):
        PixelLook(PREPROCESSING, seed=1)(Example(Path("none.png"), "x", ("x",)), 0, 0)

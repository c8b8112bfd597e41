"""The warning about captions with sides beside mirrored crops."""

from pathlib import Path

import pytest

from isthmus.build.mirroring import warn_of_sides
from isthmus.config.data import FeaturesConfig
from isthmus.records import Example


def source(captions):
    return [Example(Path(f"{number}.png"), str(number), tuple(texts)) for number, texts in enumerate(captions)]


SIDED = source([["a boat", "a boat on the Left"], ["bright water"], ["turn right"]])
PLAIN = source([["a leftover"], ["brightness"]])


def test_sides_in_captions_of_mirrored_pictures_are_told_with_an_example(caplog):
    warn_of_sides(SIDED, FeaturesConfig())
    (record,) = caplog.records
    assert "captions of 2 of 3 training pictures" in record.getMessage()
    assert "'a boat on the Left'" in record.getMessage() and "features.flip=false" in record.getMessage()
    caplog.clear()
    warn_of_sides(SIDED, FeaturesConfig(folder="store", views=2))
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("pictures", "config"),
    [
        (PLAIN, FeaturesConfig()),
        (SIDED, FeaturesConfig(flip=False)),
        (SIDED, FeaturesConfig(folder="store", views=1)),
        (source([["a boat"]] * 200 + [["all right"]]), FeaturesConfig()),
    ],
)
def test_nothing_is_said_without_a_reason(pictures, config, caplog):
    warn_of_sides(pictures, config)
    assert not caplog.records

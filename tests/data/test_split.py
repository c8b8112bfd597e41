import shutil

import pytest

from isthmus.data.mixture import Mixture, Part
from isthmus.data.split import split_by_picture
from isthmus.errors import DataError
from isthmus.records import Example


@pytest.fixture
def pictures(tmp_path):
    """400 files; each tenth is the same file once more under another name."""
    examples = []
    for number in range(400):
        path = tmp_path / f"{number}.png"
        path.write_bytes(b"picture %d" % (number if number % 10 else number // 20))
        examples.append(Example(path, path.name, (f"caption {number}",)))
    return examples


def split(examples, share=0.25, name="x"):
    train, held_out = split_by_picture(Mixture([Part(name, examples)]), share)
    return [[side[index] for index in range(len(side))] for side in (train, held_out)]


def content(side):
    return {example.image.read_bytes() for example in side}


def test_every_row_falls_on_one_side_and_about_the_share_is_held_out(pictures):
    train, held_out = split(pictures)
    assert sorted(example.image_id for example in train + held_out) == sorted(e.image_id for e in pictures)
    assert 70 < len(held_out) < 130
    assert not content(train) & content(held_out)


def test_the_same_id_falls_on_one_side_and_joins_its_pictures(pictures):
    things = [Example(e.image, f"thing {number // 3}", e.captions) for number, e in enumerate(pictures)]
    train, held_out = split(things)
    assert not {e.image_id for e in train} & {e.image_id for e in held_out}
    assert not content(train) & content(held_out), "and so do the bytes that join several ids"
    assert len(held_out) > 20


def test_neither_places_nor_other_pictures_nor_a_changed_file_move_a_picture(pictures, tmp_path):
    alone = [example for number, example in enumerate(pictures) if number % 10]
    before = {example.image_id for example in split(alone)[1]}
    moved = tmp_path / "moved"
    moved.mkdir()
    again = [Example(shutil.copy(e.image, moved / e.image_id), e.image_id, e.captions) for e in reversed(alone)]
    again[3].image.write_bytes(b"")
    again[4].image.unlink()
    assert {example.image_id for example in split(again, name="y")[1]} == before
    assert {example.image_id for example in split(alone[:200])[1]} == before & {e.image_id for e in alone[:200]}


def test_empty_files_are_not_the_same_picture(pictures):
    for example in pictures:
        example.image.write_bytes(b"")
    assert 70 < len(split(pictures)[1]) < 130


def test_the_same_bytes_in_two_sources_fall_on_one_side(pictures, tmp_path):
    mixed = Mixture([Part("a", pictures[:200]), Part("b", pictures[200:])])
    train, held_out = split_by_picture(mixed, 0.25)
    assert [part.name for part in held_out.parts] == ["a", "b"]
    sides = [content([side[index] for index in range(len(side))]) for side in (train, held_out)]
    assert not sides[0] & sides[1]


def test_a_file_that_cannot_be_read_goes_by_its_id(pictures):
    pictures[7].image.unlink()
    train, held_out = split(pictures)
    assert len(train) + len(held_out) == 400


@pytest.mark.parametrize(("share", "side"), [(0.001, "none"), (0.999, "all")])
def test_an_empty_side_is_refused(pictures, share, side):
    with pytest.raises(DataError, match=rf"data\.held_out: {share} holds out {side} of 3 pictures; choose another"):
        split(pictures[1:4], share)

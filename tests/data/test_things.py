from pathlib import Path

import pytest

from isthmus.data.things import joined, refuse_one_thing
from isthmus.errors import DataError
from isthmus.records import Example


def rows(*pairs):
    return [Example(Path("x.png"), thing, captions) for thing, captions in pairs]


def test_a_source_of_one_thing_is_refused():
    with pytest.raises(DataError, match=r"all 2 training pictures have the image_id 'a', so that none is a negative"):
        refuse_one_thing(rows(("a", ("x",)), ("a", ("y",))), captions=True)
    same = rows(("a", ("x",)), ("b", ("x", "x")))
    with pytest.raises(DataError, match=r"all 2 training pictures have the caption 'x', so that none is a negative of"):
        refuse_one_thing(same, captions=True)
    refuse_one_thing(same, captions=False)


def test_two_things_are_enough():
    refuse_one_thing(rows(("a", ("x",)), ("a", ("x",)), ("b", ("y",))), captions=True)
    refuse_one_thing(rows(("a", ("x",)), ("b", ("x", "y"))), captions=True)
    refuse_one_thing(rows(("a", ("x",))), captions=True)


def test_rows_are_joined_by_names_and_marks_over_others():
    names = ["d", "c", "b", "a", "d", "e"]
    marks = [[1], [2, 1], [], [3, 2], [], [4]]
    assert joined(names, marks) == ["a", "a", "b", "a", "a", "e"]

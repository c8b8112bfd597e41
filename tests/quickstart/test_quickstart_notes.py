"""Notes are read again as they were written; what is no whole note counts for none."""

import pytest

from isthmus.quickstart.notes import read_notes, write_notes


def test_notes_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "new" / "notes.json"
    write_notes(path, {"steps": {"1": 60}})
    write_notes(path, {"steps": {"1": 90}})
    assert read_notes(path) == {"steps": {"1": 90}}
    assert [file.name for file in path.parent.iterdir()] == ["notes.json"]


@pytest.mark.parametrize("content", ["", '{"steps": ', "[1, 2]", "null"])
def test_what_is_no_whole_object_counts_for_none(tmp_path, content):
    path = tmp_path / "notes.json"
    assert read_notes(path) is None
    path.write_text(content)
    assert read_notes(path) is None

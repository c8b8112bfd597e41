"""A file appears whole or not at all, and one that was there stays until then."""

from pathlib import Path

import pytest

from isthmus.errors import UserError
from isthmus.files import check_place, write_atomically


def test_a_write_that_fails_leaves_no_file(tmp_path):
    def fail(path):
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "x", fail)
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_is_replaced_once_the_new_file_is_whole(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    seen = []

    def write(scratch):
        scratch.write_text("new")
        seen.append(path.read_text())

    write_atomically(path, write)
    assert (seen, path.read_text()) == (["old"], "new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_one_sentence_and_one_that_can_is_left_as_it_is(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "log.jsonl", tmp_path / ("x" * 300) / "captions", Path("/proc/x/y/log.jsonl")):
        with pytest.raises(UserError, match=r"cannot be written \(.*\); choose another output"):
            check_place(path)
    check_place(tmp_path / "deep" / "er" / "log.jsonl")
    check_place(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

"""A file appears whole or not at all, and one that was there stays until then."""

import os
from pathlib import Path

import pytest

from isthmus.errors import UserError
from isthmus.files import check_place, flush_tree, make_folder, write_atomically


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


@pytest.fixture
def flushed(monkeypatch):
    """The places that were waited for, in their order."""
    places, fsync = [], os.fsync

    def watched(handle):
        places.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    return places


def test_a_new_folder_and_those_around_it_have_their_names_on_the_disk(tmp_path, flushed):
    make_folder(tmp_path / "a" / "b")
    assert sorted(flushed) == [tmp_path, tmp_path / "a"]
    make_folder(tmp_path / "a" / "b")
    assert len(flushed) == 2


def test_all_in_a_folder_is_on_the_disk_before_it_is(tmp_path, flushed):
    (tmp_path / "inner").mkdir()
    for path in (tmp_path / "x", tmp_path / "inner" / "y"):
        path.write_text("z")
    os.mkfifo(tmp_path / "pipe")
    flush_tree(tmp_path)
    assert sorted(flushed[:-1]) == [tmp_path / "inner", tmp_path / "inner" / "y", tmp_path / "x"]
    assert flushed[-1] == tmp_path

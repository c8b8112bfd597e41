"""A file appears whole or not at all, and one that was there stays until then."""

import pytest

from isthmus.files import write_atomically


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

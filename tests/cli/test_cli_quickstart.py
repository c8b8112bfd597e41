"""The quickstart's command says in one sentence where it cannot write."""

import errno

import pytest

from isthmus.cli import quickstart
from isthmus.errors import UserError
from isthmus.quickstart.work import Work


def run(output):
    quickstart.run_quickstart(Work(None, (3, 2)), output, seed=0, development=False)


def test_a_place_that_cannot_be_written_is_named_before_anything_is_fetched(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/quick/report.json cannot be written \(Not a directory\)"):
        run(tmp_path / "file" / "quick")


def test_a_full_disk_is_a_sentence_and_other_faults_are_not_hidden(tmp_path, monkeypatch):
    def fails(code):
        def fail(_order):
            raise OSError(code, "why", str(tmp_path / "phases.json"))

        return fail

    monkeypatch.setattr(quickstart, "_run", fails(errno.ENOSPC))
    with pytest.raises(UserError, match=r"phases.json cannot be written \(why\); what is done stays"):
        run(tmp_path)
    monkeypatch.setattr(quickstart, "_run", fails(errno.EPIPE))
    with pytest.raises(BrokenPipeError):
        run(tmp_path)

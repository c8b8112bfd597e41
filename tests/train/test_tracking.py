"""What a run writes for programs and for people."""

import json

import pytest

from isthmus.errors import UserError
from isthmus.train import tracking
from isthmus.train.tracking import JsonLines, Reporter, StoreProgress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

        def time(self):
            return 1000.0004 + self.now

    clock = Clock()
    monkeypatch.setattr(tracking, "time", clock)
    return clock


def test_records_are_lines_with_the_time_and_stand_in_the_file_at_once(tmp_path, clock):
    path = tmp_path / "deep" / "log.jsonl"
    with JsonLines(path) as log:
        log.write({"step": 1, "itc": 0.5})
        assert json.loads(path.read_text()) == {"time": 1000.0, "step": 1, "itc": 0.5}
    with JsonLines(path) as again:
        again.write({"step": 2})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .* choose another output"):
        JsonLines(tmp_path / "file" / "log.jsonl")


def test_a_disk_that_fills_up_is_one_sentence_and_closing_the_log_adds_nothing(tmp_path):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with (
        pytest.raises(
            UserError, match=r"log\.jsonl cannot be written \(No space left on device\); what was saved .* again"
        ),
        JsonLines(tmp_path / "log.jsonl") as log,
    ):
        log.write({"step": 1})


def test_plain_lines_say_how_far_and_how_long_still(clock, capsys):
    with Reporter("stage 1", 100) as reporter:
        clock.now = 60.0
        reporter.advance(9)
        reporter.advance(10, "itc 2.000")
        clock.now = 600.0
        reporter.advance(100, "itc 1.000")
        reporter.say("the bridge is in [runs]/bridge")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "stage 1 10/100  9.0 min left  itc 2.000",
        "stage 1 100/100  0.0 min left  itc 1.000",
        "the bridge is in [runs]/bridge",
    ]


def test_a_long_plain_line_stays_one_line(clock, capsys):
    with Reporter("stage 1", 10) as reporter:
        reporter.advance(1, "x" * 200)
        reporter.say("y " * 100)
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_what_was_done_before_does_not_count_for_the_time_left(clock, capsys):
    with Reporter("stage 1", 100, start=50) as reporter:
        clock.now = 60.0
        reporter.advance(50, "a")
        reporter.advance(75, "b")
    assert capsys.readouterr().err.splitlines() == ["stage 1 50/100  a", "stage 1 75/100  1.0 min left  b"]


def test_other_ranks_are_silent(capsys):
    with Reporter("stage 1", 2, silent=True) as reporter:
        reporter.advance(1, "itc 2.000")
        reporter.say("a line")
    assert capsys.readouterr() == ("", "")


def test_a_store_tells_of_each_tenth_once_and_how_fast_it_is(clock, capsys):
    with StoreProgress() as progress:
        for done in range(1, 41):
            progress(done, 40)
            clock.now += 0.5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1] == "features 40/40  0.0 min left  40 of 40 pictures, 2.0 a second"

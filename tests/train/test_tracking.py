"""What a run writes for programs and for people."""

import json
import math

import pytest

from isthmus.errors import UserError
from isthmus.train import tracking
from isthmus.train.tracking import JsonLines, Reporter, StoreProgress, in_words, last_run, step_pace, unbroken


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


def test_what_is_also_told_is_told_after_the_file(tmp_path):
    path, told = tmp_path / "log.jsonl", []
    with JsonLines(path, also=lambda record: told.append((record, path.read_text().count("\n")))) as log:
        log.write({"step": 1, "itc": math.nan})
        log.write({"step": 2})
    assert [(record["step"], lines) for record, lines in told] == [(1, 1), (2, 2)]
    assert math.isnan(last_run(path)[0]["itc"])


def test_after_a_line_that_was_cut_short_the_next_record_is_whole(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"start": "a"}\n{"step": 1, "itc": 0.5}\n{"step": 2, "evaluation": {"R@1": 3}')
    with JsonLines(path) as log:
        log.write({"resume": {"step": 1}})
    assert [sorted(record) for record in last_run(path)] == [["start"], ["itc", "step"], ["resume", "time"]]
    path.write_bytes(b"\0" * 4096 + b"\xff\n" + path.read_bytes())  # as after a power failure
    assert len(last_run(path)) == 3


def test_a_log_is_read_from_its_last_start(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"start": "a"}\n{"step": 1}\n{"start": "b"}\n{"step": 2}\n')
    assert last_run(path) == [{"start": "b"}, {"step": 2}]
    path.write_text('{"step": 1}\n')
    assert last_run(path) == [{"step": 1}]


def test_steps_that_were_taken_again_stand_once_in_a_run_that_was_stopped_twice():
    again = [{"step": 6}, {"step": 8}]
    records = [
        {"start": "a"},
        {"step": 2},
        {"step": 4, "first": True},
        {"step": 6, "first": True},
        {"resume": {"step": 4}},
        {"step": 6, "second": True},
        {"resume": {"step": 4}},
        *again,
        {"step": 8, "evaluation": {}},
    ]
    kept = unbroken(records)
    assert [one for one in kept if "resume" not in one] == [*records[:3], *again, records[-1]]
    assert sum("resume" in one for one in kept) == 2
    assert unbroken(records[:4]) == records[:4]


def test_an_evaluation_that_is_made_again_at_the_checkpoint_s_own_step_stands_once():
    line, first, again = (
        {"step": 4, "itc": 1.0},
        {"step": 4, "evaluation": {"a": 1}},
        {"step": 4, "evaluation": {"a": 2}},
    )
    resume = {"resume": {"step": 4}}
    assert unbroken([line, first, {"step": 6}, resume, again]) == [line, resume, again]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (90.0, "2 min"),
        (3569.0, "59 min"),
        (3590.0, "1 h 00 min"),
        (3.0 * 3600 + 300, "3 h 05 min"),
        (86_399.0, "1 d 0 h"),
        (2.0 * 86_400 + 4 * 3600, "2 d 4 h"),
        (3.0 * 86_400 - 100, "3 d 0 h"),
    ],
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words


def test_the_pace_of_steps_counts_pairs_of_all_ranks():
    assert step_pace(0.5, 1024) == "0.50 s/step, 2,048 pairs/s"
    assert step_pace(16.04, 64) == "16.04 s/step, 4.0 pairs/s"


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
        "stage 1 10/100  9 min left  itc 2.000",
        "stage 1 100/100  took 10 min  itc 1.000",
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
    assert capsys.readouterr().err.splitlines() == ["stage 1 50/100  a", "stage 1 75/100  1 min left  b"]


def test_what_comes_before_the_work_does_not_count_for_the_time_left(clock, capsys):
    with Reporter("stage 1", 100, start=50) as reporter:
        clock.now = 1000.0
        reporter.say("ready")
        with reporter.doing("evaluating"):
            clock.now = 2000.0
        clock.now = 2060.0
        reporter.advance(75, "a")
        reporter.say("between")
        clock.now = 2090.0
        reporter.advance(90, "b")
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "left" in line] == [
        "stage 1 75/100  1 min left  a",
        "stage 1 90/100  22 s left  b",
    ]


def test_what_keeps_the_steps_waiting_is_a_plain_line_at_its_start(clock, capsys):
    with Reporter("stage 1", 100) as reporter:
        reporter.advance(40)
        with reporter.doing("evaluating"):
            assert capsys.readouterr().err.splitlines() == ["stage 1 40/100  evaluating"]
    assert capsys.readouterr().err == ""


@pytest.fixture
def terminal(monkeypatch):
    """A terminal, as far as the console can tell."""
    for name, value in {"TTY_COMPATIBLE": "1", "TERM": "xterm-256color", "COLUMNS": "160", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)


def test_a_terminal_has_a_bar_with_figures_the_time_left_and_what_keeps_it_waiting(terminal, clock, capsys):
    with Reporter("stage 1", 100, start=50) as reporter:
        clock.now = 60.0
        reporter.advance(75, "itc 2.000")
        with reporter.doing("evaluating"):
            assert "stage 1, evaluating" in capsys.readouterr().err
        reporter.say("a [line]")
    shown = capsys.readouterr().err
    assert "a [line]" in shown
    last = next(line for line in reversed(shown.splitlines()) if "stage 1" in line)
    assert "evaluating" not in last and "75/100 itc 2.000" in last and "1 min left" in last


def test_a_failure_while_something_else_is_done_leaves_the_bar_as_it_was(terminal, capsys):
    with Reporter("stage 1", 10) as reporter:
        with pytest.raises(UserError), reporter.doing("evaluating"):
            raise UserError("no")
        capsys.readouterr()
    assert "evaluating" not in capsys.readouterr().err


def test_other_ranks_are_silent(capsys):
    with Reporter("stage 1", 2, silent=True) as reporter:
        reporter.advance(1, "itc 2.000")
        reporter.say("a line")
        with reporter.doing("evaluating"):
            pass
    assert capsys.readouterr() == ("", "")


def test_a_store_tells_of_each_tenth_once_and_how_fast_it_is(clock, capsys):
    with StoreProgress() as progress:
        for done in range(1, 41):
            progress(done, 40)
            clock.now += 0.5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1] == "features 40/40  took 20 s  40 of 40 pictures, 2.0 a second"

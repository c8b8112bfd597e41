"""A phase is done for one key; its time adds up over interruptions, and its memory is its own."""

import pytest

from isthmus.quickstart import phases
from isthmus.quickstart.phases import Phases, phase_key


def ticking(monkeypatch, *times):
    clock = iter(times)
    monkeypatch.setattr("isthmus.quickstart.phases.time.monotonic", lambda: next(clock))


def test_a_finished_phase_is_known_later_and_only_for_its_key(tmp_path):
    with Phases(tmp_path).run("stage 1", "key"):
        pass
    later = Phases(tmp_path)
    assert later.done("stage 1", "key")
    assert not later.done("stage 1", "other")
    assert not later.done("stage 2", "key")


def test_an_interrupted_phase_is_not_done_and_its_time_counts_on(tmp_path, monkeypatch):
    ticking(monkeypatch, 100.0, 130.0, 500.0, 512.0)
    with pytest.raises(KeyboardInterrupt), Phases(tmp_path).run("features", "key"):
        raise KeyboardInterrupt
    assert not Phases(tmp_path).done("features", "key")
    again = Phases(tmp_path)
    with again.run("features", "key"):
        pass
    assert again.done("features", "key")
    assert again.seconds == {"features": 42.0}


def test_looking_again_at_a_finished_phase_costs_nothing_and_another_key_counts_from_zero(tmp_path, monkeypatch):
    ticking(monkeypatch, 0.0, 7.0, 20.0, 25.0)
    book = Phases(tmp_path)
    with book.run("pictures", "key"):
        pass
    with book.run("pictures", "key"):
        pass
    assert book.seconds == {"pictures": 7.0}
    with book.run("pictures", "other"):
        pass
    assert book.seconds == {"pictures": 5.0}


def test_a_key_changes_with_its_content_and_its_format(monkeypatch):
    key = phase_key("stage 1", {"seed": 0})
    assert key == phase_key("stage 1", {"seed": 0})
    assert key != phase_key("stage 1", {"seed": 1})
    assert key != phase_key("stage 2", {"seed": 0})
    monkeypatch.setitem(phases.FORMATS, "stage 1", phases.FORMATS["stage 1"] + 1)
    assert key != phase_key("stage 1", {"seed": 0})


def test_forgetting_a_phase_forgets_all_that_stand_on_it(tmp_path):
    book = Phases(tmp_path)
    for name in phases.FORMATS:
        with book.run(name, "key"):
            pass
    book.forget("stage 1")
    assert list(Phases(tmp_path).seconds) == ["pictures", "features"]


def test_a_torn_record_counts_as_nothing_done(tmp_path):
    (tmp_path / phases.PHASES).write_text('{"pictures": ')
    assert not Phases(tmp_path).done("pictures", "key")
    assert Phases(tmp_path).known("pictures", "key"), "nothing is said of them, so nothing speaks against them"


def test_the_peak_is_that_of_the_phase(tmp_path):
    book = Phases(tmp_path)
    with book.run("pictures", "key"):
        block = bytearray(256 * 2**20)
        block[::4096] = b"x" * len(block[::4096])
        del block
    with book.run("features", "key"):
        pass
    assert book.peak_gib["pictures"] > 0.25
    assert book.peak_gib["features"] <= book.peak_gib["pictures"]


def test_where_the_kernel_tells_no_peak_the_process_tells_it(tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "_CLEAR_REFS", tmp_path / "no" / "such")
    monkeypatch.setattr(phases, "_STATUS", tmp_path / "none")
    book = Phases(tmp_path)
    with book.run("pictures", "key"):
        pass
    assert book.peak_gib["pictures"] > 0

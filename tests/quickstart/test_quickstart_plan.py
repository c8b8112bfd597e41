import json

import pytest

from isthmus.quickstart.plan import FEWEST_STEPS, PLAN, StepPlan, read_plan
from isthmus.quickstart.work import Work

ASKED = {"seed": 0, "development": False}


def test_fixed_steps_are_known_at_once(tmp_path):
    plan = StepPlan(tmp_path, Work(None, (7, 5)), ASKED)
    assert (plan.known(1), plan.known(2)) == (7, 5)


def test_a_budget_is_shared_by_measured_steps_written_down_and_reused(tmp_path):
    plan = StepPlan(tmp_path, Work(10_000.0, None), ASKED)
    assert plan.known(1) is None
    first = plan.decide(1, 2.0, trained=0.0)
    assert first == pytest.approx(10_000 * 0.85 * 0.6 / 2, abs=2)
    second = plan.decide(2, 1.0, trained=first * 2.0)
    assert second == pytest.approx(10_000 * 0.85 * 0.4, abs=3)
    again = StepPlan(tmp_path, Work(10_000.0, None), ASKED)
    assert (again.known(1), again.known(2)) == (first, second)


def test_stage_2_is_sized_the_same_in_a_later_process(tmp_path, monkeypatch):
    clock = iter([0.0, 500.0, 90_000.0, 95_000.0])
    monkeypatch.setattr("isthmus.quickstart.plan.time.monotonic", lambda: next(clock))
    StepPlan(tmp_path, Work(2000.0, None), ASKED).decide(1, 1.0, trained=0.0)
    later = StepPlan(tmp_path, Work(2000.0, None), ASKED)
    assert later.decide(2, 1.0, trained=720.0) == int(2000 * 0.85 - 500 - 720)


def test_minutes_before_an_interruption_count(tmp_path, monkeypatch):
    clock = iter([0.0, 500.0, 90_000.0, 90_200.0, 90_250.0])
    monkeypatch.setattr("isthmus.quickstart.plan.time.monotonic", lambda: next(clock))
    with pytest.raises(KeyboardInterrupt), StepPlan(tmp_path, Work(2000.0, None), ASKED).counting():
        raise KeyboardInterrupt
    again = StepPlan(tmp_path, Work(2000.0, None), ASKED)
    with again.counting():
        pass
    assert again.decide(1, 1.0, trained=0.0) == int((2000 * 0.85 - 500 - 250) * 0.6)


def test_a_plan_that_was_made_counts_no_more(tmp_path, monkeypatch):
    clock = iter([0.0, 500.0, 90_000.0])
    monkeypatch.setattr("isthmus.quickstart.plan.time.monotonic", lambda: next(clock))
    StepPlan(tmp_path, Work(2000.0, None), ASKED).decide(1, 1.0, trained=0.0)
    with StepPlan(tmp_path, Work(2000.0, None), ASKED).counting():
        pass
    assert read_plan(tmp_path)["spent"] == 500.0


def test_another_order_plans_anew(tmp_path):
    StepPlan(tmp_path, Work(10_000.0, None), ASKED).decide(1, 2.0, trained=0.0)
    assert StepPlan(tmp_path, Work(9_000.0, None), ASKED).known(1) is None
    StepPlan(tmp_path, Work(10_000.0, None), ASKED).decide(1, 2.0, trained=0.0)
    assert StepPlan(tmp_path, Work(10_000.0, None), {**ASKED, "seed": 1}).known(1) is None


def test_a_small_budget_still_trains_a_little(tmp_path):
    plan = StepPlan(tmp_path, Work(1.0, None), ASKED)
    assert plan.decide(1, 5.0, trained=0.0) == FEWEST_STEPS[1]
    assert plan.decide(2, 5.0, trained=300.0) == FEWEST_STEPS[2]


def test_a_torn_plan_counts_as_none(tmp_path):
    (tmp_path / PLAN).write_text('{"asked": ')
    assert read_plan(tmp_path) is None
    StepPlan(tmp_path, Work(None, (7, 5)), ASKED)
    assert json.loads((tmp_path / PLAN).read_text())["steps"] == {"1": 7, "2": 5}

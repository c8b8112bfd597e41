import json

import pytest

from isthmus.quickstart.plan import StepPlan, Work
from isthmus.quickstart.run import Order, Quickstart, keep_earlier
from isthmus.quickstart.score import _bridges, finished_report

WORK = Work(None, (3, 2))


def order(folder, work=WORK, **changes):
    return Order(folder, work, **{"seed": 0, "development": False, **changes})


def finish(quick, stage, config):
    """What a finished stage leaves behind, as far as the next start looks."""
    quick.bridge(stage).mkdir(parents=True)
    record = quick.bridge(stage).parent / "run.json"
    record.write_text(json.dumps({"config": config.model_dump(mode="json"), "seconds": 1.0}))


@pytest.mark.parametrize("folder", ["quick", "a #1", "[x]: y"])
def test_recipes_are_made_for_any_folder(tmp_path, folder):
    quick = Quickstart(order(tmp_path / folder), print)
    first, second = quick.config(1, steps=3), quick.config(2, steps=2)
    assert first.data.train.folder == str(tmp_path / folder / "pictures")
    assert (first.train.steps, second.train.steps) == (3, 2)
    assert second.stage1 == str(tmp_path / folder / "stage1" / "bridge")
    assert first.features == second.features


def test_the_development_artist_joins_reported_runs_only(tmp_path):
    assert order(tmp_path).training_rows == "train.jsonl"
    assert set(order(tmp_path).held_out.values()) == {"unseen-artist.jsonl", "unseen-names.jsonl"}
    assert order(tmp_path, development=True).training_rows == "train-dev.jsonl"
    assert set(order(tmp_path, development=True).held_out.values()) == {"development.jsonl"}


def test_a_finished_stage_is_known_by_its_config(tmp_path):
    quick = Quickstart(order(tmp_path), print)
    config = quick.config(1, steps=3)
    assert quick._finished(1, config) is None
    finish(quick, 1, config)
    assert quick._finished(1, config)["seconds"] == 1.0
    assert quick._finished(1, quick.config(1, steps=4)) is None


def test_a_torn_record_counts_as_unfinished(tmp_path):
    quick = Quickstart(order(tmp_path), print)
    finish(quick, 1, quick.config(1, steps=3))
    (tmp_path / "stage1" / "run.json").write_text('{"config": {')
    assert quick._finished(1, quick.config(1, steps=3)) is None


def test_results_of_other_work_are_kept_aside(tmp_path):
    StepPlan(tmp_path, WORK, order(tmp_path).asked)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "stage1").mkdir()
    (tmp_path / "report.json").write_text("{}")
    assert keep_earlier(order(tmp_path)) is None, "the same order goes on"
    kept = keep_earlier(order(tmp_path, seed=1))
    assert kept == tmp_path / "earlier-1"
    assert sorted(path.name for path in kept.iterdir()) == ["plan.json", "report.json", "stage1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["earlier-1", "pictures"]
    assert keep_earlier(order(tmp_path, seed=1)) is None


def test_a_report_is_reused_for_exactly_its_bridges(tmp_path):
    quick = Quickstart(order(tmp_path), print)
    for stage in (1, 2):
        quick.bridge(stage).mkdir(parents=True)
        (quick.bridge(stage) / "complete").write_text(f"hashes of {stage}")
    assert finished_report(quick) is None
    (tmp_path / "report.json").write_text(json.dumps({"bridges": _bridges(quick), "seed": 0}))
    assert finished_report(quick) is None, "the picture is missing"
    (tmp_path / "retrieval.png").touch()
    assert finished_report(quick)["seed"] == 0
    (quick.bridge(2) / "complete").write_text("hashes of another bridge")
    assert finished_report(quick) is None
    (tmp_path / "report.json").write_text("{")
    assert finished_report(quick) is None

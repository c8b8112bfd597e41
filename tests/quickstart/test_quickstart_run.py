import json
from types import SimpleNamespace

import pytest

from isthmus.build.run import RECORD
from isthmus.build.workshop import Workshop
from isthmus.checkpoints.native import CONFIG, WEIGHTS
from isthmus.checkpoints.sealed import MARKER
from isthmus.config.run import check
from isthmus.quickstart.phases import Phases
from isthmus.quickstart.plan import StepPlan, read_plan
from isthmus.quickstart.run import Order, Quickstart, keep_earlier, pictures_key
from isthmus.quickstart.work import Work

WORK = Work(None, (3, 2))


def order(folder, work=WORK, **changes):
    return Order(folder, work, **{"seed": 0, "development": False, **changes})


def finish(quick, stage):
    """What a finished stage leaves behind, as far as the next start looks."""
    quick.bridge(stage).mkdir(parents=True)
    (quick.bridge(stage) / MARKER).write_text(json.dumps({WEIGHTS: "hash", CONFIG: "hash"}))
    (quick.bridge(stage).parent / RECORD).write_text(json.dumps({"seconds": 1.0}))


@pytest.mark.parametrize("folder", ["quick", "a #1", "[x]: y"])
def test_recipes_are_made_for_any_folder(tmp_path, folder):
    quick = Quickstart(order(tmp_path / folder), print)
    first, second = quick.config(1, steps=3), quick.config(2, steps=2)
    assert first.data.train.folder == str(tmp_path / folder / "pictures")
    assert (first.train.steps, second.train.steps) == (3, 2)
    assert second.init.folder == str(tmp_path / folder / "stage1" / "bridge")
    assert first.features == second.features


def test_another_precision_is_other_work_with_features_of_its_own(tmp_path):
    usual, other = Quickstart(order(tmp_path), print), Quickstart(order(tmp_path, precision="fp32"), print)
    for stage in (1, 2):
        assert (usual.config(stage, steps=3).precision, other.config(stage, steps=3).precision) == ("auto", "fp32")
        folders = {quick.config(stage, steps=3).features.folder for quick in (usual, other)}
        assert folders == {str(tmp_path / "features"), str(tmp_path / "features-fp32")}
    assert usual.order.asked != other.order.asked and usual._stage_key(1, 3) != other._stage_key(1, 3)


def test_the_development_artist_joins_reported_runs_only(tmp_path):
    assert order(tmp_path).training_rows == "train.jsonl"
    assert set(order(tmp_path).held_out.values()) == {"unseen-artist.jsonl", "unseen-names.jsonl"}
    assert order(tmp_path, development=True).training_rows == "train-dev.jsonl"
    assert set(order(tmp_path, development=True).held_out.values()) == {"development.jsonl"}


def test_a_stage_is_known_by_what_was_asked_for_and_the_bridge_below_it_but_not_by_its_place(tmp_path):
    quick, moved = Quickstart(order(tmp_path / "one"), print), Quickstart(order(tmp_path / "two"), print)
    assert quick._stage_key(1, 3) == moved._stage_key(1, 3)
    assert quick._stage_key(1, 3) != quick._stage_key(1, 4)
    assert quick._stage_key(1, 3) != Quickstart(order(tmp_path, seed=1), print)._stage_key(1, 3)
    finish(quick, 1)
    before = quick._stage_key(2, 2)
    (quick.bridge(1) / MARKER).write_text(json.dumps({WEIGHTS: "hash", CONFIG: "hash of another ranking"}))
    assert quick._stage_key(2, 2) == before
    (quick.bridge(1) / MARKER).write_text(json.dumps({WEIGHTS: "hash of another bridge", CONFIG: "hash"}))
    assert quick._stage_key(2, 2) != before


def test_a_stage_is_not_another_s_for_a_licence_that_is_stated(tmp_path, monkeypatch):
    quick, config = Quickstart(order(tmp_path), print), Quickstart.config
    finish(quick, 1)
    before = [quick._stage_key(stage, 3) for stage in (1, 2)]

    def unstated(self, stage, **more):
        content = config(self, stage, **more).model_dump(mode="json")
        for tower in {"encoder", "llm"} & {name for name, value in content.items() if value is not None}:
            content[tower].pop("licence")
        return check(content, "here")

    monkeypatch.setattr(Quickstart, "config", unstated)
    assert [quick._stage_key(stage, 3) for stage in (1, 2)] == before


def test_a_finished_stage_is_not_trained_again_and_an_unreadable_one_is(tmp_path, monkeypatch):
    trained = []

    class Fake:
        def __init__(self, config):
            self.config = config

        def run(self):
            trained.append((self.config.stage, self.config.overwrite))
            return {"seconds": 5.0}

    monkeypatch.setattr("isthmus.quickstart.run.build_training", lambda config, **_: Fake(config))
    quick, workshop = Quickstart(order(tmp_path), print), object.__new__(Workshop)
    finish(quick, 1)
    plan = StepPlan(tmp_path, WORK, order(tmp_path).asked)
    quick._train(1, plan, workshop)
    assert trained == [(1, True)], "a folder that no phase speaks for is trained over"
    again = Quickstart(order(tmp_path), print)
    again._train(1, plan, workshop)
    assert trained == [(1, True)]
    assert again.records[1] == {"seconds": 1.0}
    (tmp_path / "stage1" / RECORD).write_text('{"seconds": ')
    again._train(1, plan, workshop)
    assert len(trained) == 2


def test_a_budget_counts_what_interrupted_phases_and_stages_took(tmp_path, monkeypatch):
    now, asked = [0.0], order(tmp_path, Work(2000.0, None))
    monkeypatch.setattr("isthmus.quickstart.plan.time.monotonic", lambda: now[0])

    def interrupted(*_, **__):
        now[0] += 400.0
        raise KeyboardInterrupt

    monkeypatch.setattr("isthmus.quickstart.run.prepare_pictures", interrupted)
    for spent in (400.0, 800.0):
        with pytest.raises(KeyboardInterrupt):
            Quickstart(asked, print).run(interrupted)
        assert read_plan(tmp_path)["spent"] == spent
    quick, plan = Quickstart(asked, print), StepPlan(tmp_path, asked.work, asked.asked)
    monkeypatch.setattr("isthmus.quickstart.run.measure_step", lambda _: 1.0)
    monkeypatch.setattr("isthmus.quickstart.run.build_training", lambda *_, **__: SimpleNamespace(run=interrupted))
    with pytest.raises(KeyboardInterrupt):
        quick._train(1, plan, object.__new__(Workshop))
    monkeypatch.setattr(
        "isthmus.quickstart.run.build_training", lambda *_, **__: SimpleNamespace(run=lambda: {"seconds": 1.0})
    )
    for stage in (1, 2):
        quick._train(stage, plan, object.__new__(Workshop))
    assert (plan.known(1), plan.known(2)) == (int((1700 - 800) * 0.6), 1700 - 800 - 400)


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


def test_drawings_and_features_are_shared_but_drawings_made_otherwise_are_kept_aside(tmp_path):
    StepPlan(tmp_path, WORK, order(tmp_path).asked)
    (tmp_path / "pictures").mkdir()
    book = Phases(tmp_path)
    for name in ("pictures", "features", "stage 1"):
        with book.run(name, pictures_key() if name == "pictures" else "key"):
            (tmp_path / "report.json").write_text("{}")
    kept = keep_earlier(order(tmp_path, seed=1))
    assert list(Phases(tmp_path).seconds) == ["pictures", "features"]
    assert list(Phases(kept).seconds) == ["pictures", "features", "stage 1"]
    with Phases(tmp_path).run("pictures", "drawn by an older format"):
        pass
    kept = keep_earlier(order(tmp_path, seed=1))
    assert (kept / "pictures").is_dir() and not (tmp_path / "pictures").exists()
    assert Phases(tmp_path).seconds == {}

"""Trackers with stand-ins: what each is told, what it is not told twice, and what happens when one fails."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate import Accelerator

from isthmus.errors import ConfigError, UserError
from isthmus.train.tracker_kinds import KINDS, About
from isthmus.train.trackers import Before, flat, numbers, open_trackers, tracker_options

LOG = [
    {"start": "a"},
    {"step": 2, "itc": 4.0, "skipped": 0},
    {"step": 4, "itc": 3.0, "skipped": 0},
    {"step": 4, "evaluation": {"text_to_image": {"R@1": 10.0}}},
    {"step": 6, "itc": 2.0, "skipped": 0},
    {"step": 6, "evaluation": {"text_to_image": {"R@1": 20.0}}},
    {"step": 8, "itc": 1.0, "skipped": 0},
]
STATE = {"tensorboard": {}, "wandb": {"id": "w"}, "mlflow": {"run_id": "m"}}


class Run:
    """A tracker's own object, and its run's figures by step."""

    id = "w2"
    info = SimpleNamespace(run_id="m2")

    def __init__(self, begins=0):
        self.starting_step = begins

    def finish(self, exit_code=0):
        self.ended = exit_code

    def close(self):
        self.ended = "closed"


class Tracker:
    """What Accelerate makes of a tracker; fails while `broken` says so."""

    def __init__(self, name, begins=0):
        self.name, self.tracker = name, Run(begins)
        self.told, self.configs, self.broken, self.finished = [], [], None, False

    def store_init_configuration(self, config):
        self.configs.append(config)

    def log(self, figures, step):
        if self.broken:
            raise self.broken
        self.told.append((step, figures))

    def finish(self):
        if self.broken:
            raise self.broken
        self.finished = True


class Stand(Accelerator):
    """As much of an Accelerator as trackers need."""

    is_main_process = True

    def __init__(self, *names, begins=0):
        self.log_with = list(names)
        self.trackers = {name: Tracker(name, begins) for name in names}

    def init_trackers(self, project, init_kwargs):
        self.project, self.options = project, init_kwargs

    def get_tracker(self, name, unwrap=False):
        return self.trackers[name].tracker if unwrap else self.trackers[name]


@pytest.fixture
def said():
    return []


@pytest.fixture
def start(tmp_path, said):
    """Trackers of a run, new or resumed, on stand-ins."""

    def start(stand, before=None):
        config = {"stage": 1, "train": {"lr": 1e-4}, "data": {"train": [{"folder": "a"}]}}
        about = About("isthmus", tmp_path / "own" / "stage1", config)
        return open_trackers(stand, about, before=before, say=said.append)

    return start


def resumed(step=4, state=STATE):
    return Before(state, step, LOG)


def test_the_numbers_of_a_record_have_the_names_of_the_log():
    record = {"time": 1.0, "step": 2, "itc": math.nan, "skipped": 0, "word": "x", "list": [1], "yes": True}
    found = numbers({**record, "evaluation": {"loss": {"gap": 1.5}, "drawn": "by picture", "exact_match": 3}})
    assert math.isnan(found.pop("itc"))
    assert found == {"skipped": 0.0, "evaluation/loss/gap": 1.5, "evaluation/exact_match": 3.0}


def test_a_configuration_is_flat():
    config = {"train": {"lr": 1e-4, "trackers": ["wandb"]}, "llm": None, "data": {"train": [{"folder": "a"}]}}
    assert flat(config) == {
        "train.lr": 1e-4,
        "train.trackers": '["wandb"]',
        "llm": None,
        "data.train": '[{"folder": "a"}]',
    }


def test_a_new_run_is_told_its_configuration_and_the_figures_of_steps(start, tmp_path):
    stand = Stand("tensorboard", "wandb", "mlflow")
    with start(stand) as trackers:
        for record in LOG[:4]:
            trackers.write(record)
        assert trackers.state() == {"tensorboard": {}, "wandb": {"id": "w2"}, "mlflow": {"run_id": "m2"}}
    assert (tmp_path / "own" / "stage1").is_dir()
    assert stand.project == "isthmus"
    assert stand.options == {
        "tensorboard": {},
        "wandb": {"name": "own/stage1", "dir": str(tmp_path / "own" / "stage1")},
        "mlflow": {"run_name": "own/stage1"},
    }
    for name, tracker in stand.trackers.items():
        assert tracker.configs == [{"stage": 1, "train.lr": 1e-4, "data.train": '[{"folder": "a"}]'}]
        recall = {"mlflow": "R_at_1"}.get(name, "R@1")
        assert tracker.told == [
            (2, {"itc": 4.0, "skipped": 0.0}),
            (4, {"itc": 3.0, "skipped": 0.0}),
            (4, {f"evaluation/text_to_image/{recall}": 10.0}),
        ]
        assert tracker.finished


def test_nan_is_passed_on_as_nan(start):
    stand = Stand("wandb")
    start(stand).write({"step": 2, "itc": math.nan})
    assert math.isnan(stand.trackers["wandb"].told[0][1]["itc"])


class Mlflow:
    """As much of the module as is asked: a run that holds the log up to a step, and how it ended."""

    def __init__(self, upto=0):
        told = [
            (one["step"], figures) for one in LOG if one.get("step", upto + 1) <= upto and (figures := numbers(one))
        ]
        names = {name for _, made in told for name in made}
        self.found = {KINDS["mlflow"].name(one): [step for step, made in told if one in made] for one in names}

    def MlflowClient(self):
        return self

    def get_run(self, run_id):
        assert run_id == "m2"
        return SimpleNamespace(data=SimpleNamespace(metrics=self.found))

    def get_metric_history(self, run_id, name):
        return [SimpleNamespace(step=step) for step in self.found[name]]

    def end_run(self, status):
        self.status = status


@pytest.fixture
def store(monkeypatch):
    def store(upto=0):
        monkeypatch.setitem(sys.modules, "mlflow", Mlflow(upto))
        return sys.modules["mlflow"]

    return store


def test_a_resumed_run_goes_on_with_its_runs_and_steps_taken_again_stand_once(start, store, tmp_path):
    """W&B and MLflow came as far as step 6 before the kill; the checkpoint is of step 4."""
    store(upto=6)
    stand = Stand("tensorboard", "wandb", "mlflow", begins=7)
    trackers = start(stand, resumed())
    assert stand.options == {
        "tensorboard": {"purge_step": 5},
        "wandb": {"name": "own/stage1", "dir": str(tmp_path / "own" / "stage1"), "id": "w", "resume": "allow"},
        "mlflow": {"run_id": "m"},
    }
    for record in [{"resume": {"step": 4}}, *LOG[3:]]:
        trackers.write(record)
    told = {name: [step for step, _ in tracker.told] for name, tracker in stand.trackers.items()}
    assert told["tensorboard"] == [6, 6, 8]  # its reader hides the earlier ones
    assert told["wandb"] == [8]
    assert told["mlflow"] == [8]
    assert [len(stand.trackers[name].configs) for name in ("tensorboard", "wandb", "mlflow")] == [0, 1, 0]


def test_what_a_kill_kept_from_a_tracker_is_told_when_the_run_goes_on(start, store):
    """They have only step 2, of a log up to step 8; the checkpoint is of step 6. Offline, W&B begins with nothing."""
    store(upto=2)
    stand = Stand("wandb", "mlflow", begins=3)
    start(stand, resumed(step=6)).write(LOG[6])
    for tracker in stand.trackers.values():
        assert [step for step, _ in tracker.told] == [4, 4, 6, 6, 8]
    offline = Stand("wandb")
    start(offline, resumed(step=6))
    assert [step for step, _ in offline.trackers["wandb"].told] == [2, 4, 4, 6, 6]
    assert len(offline.trackers["wandb"].configs) == 1


def test_a_tracker_that_is_new_in_a_resumed_run_is_told_what_was_before(start):
    stand = Stand("tensorboard", "mlflow")
    start(stand, resumed(state={"tensorboard": {}}))
    assert stand.options["mlflow"] == {"run_name": "own/stage1"}
    assert [step for step, _ in stand.trackers["mlflow"].told] == [2, 4, 4]
    assert (stand.trackers["tensorboard"].told, stand.trackers["tensorboard"].configs) == ([], [])


def test_a_tracker_that_fails_is_told_of_once_and_ends_nothing(start, said):
    stand = Stand("wandb", "mlflow")
    with start(stand) as trackers:
        stand.trackers["mlflow"].broken = RuntimeError("no connection.\nmore")
        for record in LOG[1:4]:
            trackers.write(record)
        stand.trackers["mlflow"].broken = None
        trackers.write(LOG[4])
        stand.trackers["mlflow"].broken = RuntimeError("gone")
        trackers.write(LOG[6])
    assert said == [
        "step 2: the tracker mlflow takes no figures, the log does: no connection",
        "step 8: the tracker mlflow takes no figures, the log does: gone",
        "the tracker mlflow could not be closed: gone",
    ]
    assert [step for step, _ in stand.trackers["wandb"].told] == [2, 4, 4, 6, 8]
    assert [step for step, _ in stand.trackers["mlflow"].told] == [6]


@pytest.mark.parametrize(("problem", "status"), [(UserError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_run_that_does_not_come_to_its_end_is_no_finished_one(start, store, problem, status):
    mlflow = store()
    stand = Stand("tensorboard", "wandb", "mlflow")
    with pytest.raises(type(problem)), start(stand):
        raise problem
    assert not any(tracker.finished for tracker in stand.trackers.values())
    assert (stand.trackers["wandb"].tracker.ended, mlflow.status) == (1, status)
    assert stand.trackers["tensorboard"].tracker.ended == "closed"


def test_one_that_cannot_start_is_one_sentence(start):
    class Refusing(Stand):
        def init_trackers(self, project, init_kwargs):
            raise RuntimeError("no API key configured.\nmore")

    with pytest.raises(UserError, match=r"\(wandb\) cannot be started: no API key configured; mend that, or leave"):
        start(Refusing("wandb"))


def test_other_ranks_and_runs_without_trackers_have_none(start, tmp_path):
    stand = Stand("wandb")
    stand.is_main_process = False
    for trackers in (start(stand), start(Accelerator(cpu=True))):
        with trackers:
            trackers.write(LOG[1])
            assert trackers.state() == {}
    assert not hasattr(stand, "options") and not (tmp_path / "own" / "stage1").exists()


def test_one_that_is_not_installed_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else object())
    with pytest.raises(ConfigError, match=r"asks for wandb, which is not installed; pip install wandb, or all three"):
        tracker_options(["tensorboard", "wandb"], Path("runs/a"))


def test_no_trackers_ask_nothing_of_the_accelerator(tmp_path):
    assert tracker_options([], tmp_path) == {}
    assert set(KINDS) == {"tensorboard", "wandb", "mlflow"}


def test_the_state_is_json(start):
    state = start(Stand(*KINDS)).state()
    assert json.loads(json.dumps(state)) == state

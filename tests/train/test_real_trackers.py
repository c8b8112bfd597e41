"""The trackers themselves, offline: what they wrote is read back with their own readers, before and after a resume."""

import math

import pytest
from accelerate import Accelerator

from isthmus.train.tracker_kinds import About
from isthmus.train.trackers import Before, open_trackers, tracker_options
from isthmus.train.tracking import JsonLines, last_run

CONFIG = {"stage": 1, "train": {"lr": 1e-4, "steps": 10, "save_every": None, "trackers": ["x"]}, "seed": 0}
RECALL = "evaluation/text_to_image/R@1"
pytestmark = pytest.mark.filterwarnings("default")  # their own are theirs


def loss(step, taken):
    return math.nan if step == 2 else step + taken / 10


@pytest.fixture
def run(tmp_path):
    """Train from a step to another: a line of the log every 2 steps, an evaluation every 4; give the state."""
    output = tmp_path / "runs" / "own" / "stage1"

    def run(name, start, stop, *, state=None, taken=0, problem=None):
        accelerator = Accelerator(cpu=True, **tracker_options([name], output))
        path = output / "log.jsonl"
        before = None if state is None else Before(state, start, last_run(path))
        about = About("isthmus tests", output, CONFIG)
        with (
            open_trackers(accelerator, about, before=before, say=pytest.fail) as trackers,
            JsonLines(path, also=trackers.write) as log,
        ):
            log.write({"start": "from a BERT", "device": "cpu"} if state is None else {"resume": {"step": start}})
            for step in range(start + 2, stop + 1, 2):
                log.write({"step": step, "itc": loss(step, taken), "lr": 0.1, "skipped": 0})
                if step % 4 == 0:
                    log.write({"step": step, "evaluation": {"text_to_image": {"R@1": float(step)}, "drawn": "x"}})
            found = trackers.state()
            if problem is not None:
                raise problem
        return found

    run.output = output
    return run


def twice(run, name):
    """To step 8, then on from step 4 to 10, as after a kill; the second time step 4's loss has another decimal."""
    state = run(name, 0, 8)
    again = run(name, 4, 10, state=state, taken=1)
    return state, again


def assert_once(steps):
    assert steps == [2, 4, 6, 8, 10]


def assert_losses(values, taken):
    """Of steps 2 to 10, where the first is NaN; `taken` says which time steps 6 and 8 are of."""
    assert math.isnan(values[0])
    assert values[1:] == pytest.approx([4.0, 6 + taken / 10, 8 + taken / 10, 10.1])


def test_tensorboard_hides_what_was_taken_again(run):
    pytest.importorskip("tensorboard", reason="TensorBoard is in the extra `trackers`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    state, again = twice(run, "tensorboard")
    assert state == again == {"tensorboard": {}}
    folder = run.output / "tensorboard" / "isthmus tests"
    read = EventAccumulator(str(folder)).Reload()
    losses = read.Scalars("itc")
    assert_once([event.step for event in losses])
    assert_losses([event.value for event in losses], taken=1)
    assert [(event.step, event.value) for event in read.Scalars(RECALL)] == [(4, 4.0), (8, 8.0)]
    assert set(read.Tags()["scalars"]) == {"itc", "lr", "skipped", RECALL}
    hyper = [file.read_text() for file in folder.glob("*/hparams.yml")]
    assert len(hyper) == 1 and "train.lr: 0.0001" in hyper[0] and "train.trackers: '[\"x\"]'" in hyper[0]


def test_mlflow_goes_on_with_its_run(run, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="MLflow is in the extra `trackers`")
    import mlflow

    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    try:
        state, again = twice(run, "mlflow")
        client = mlflow.MlflowClient()
        (found,) = client.search_runs([mlflow.get_experiment_by_name("isthmus tests").experiment_id])
        assert state == again == {"mlflow": {"run_id": found.info.run_id}}
        assert (found.info.run_name, found.info.status) == ("own/stage1", "FINISHED")
        history = client.get_metric_history(found.info.run_id, "itc")
        assert_once([metric.step for metric in history])
        assert_losses([metric.value for metric in history], taken=0)
        recalls = client.get_metric_history(found.info.run_id, RECALL.replace("@", "_at_"))
        assert [(metric.step, metric.value) for metric in recalls] == [(4, 4.0), (8, 8.0)]
        assert found.data.params["train.lr"] == "0.0001"
        with pytest.raises(KeyboardInterrupt):
            run("mlflow", 10, 10, state=state, problem=KeyboardInterrupt())
        assert client.get_run(found.info.run_id).info.status == "KILLED"
    finally:
        mlflow.set_tracking_uri(before)


def test_wandb_offline_writes_a_folder_with_the_whole_run(run, monkeypatch):
    pytest.importorskip("wandb", reason="Weights & Biases is in the extra `trackers`")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    state, again = twice(run, "wandb")
    assert state == again
    name = state["wandb"]["id"]
    first, second = (wandb_records(folder) for folder in sorted((run.output / "wandb").glob(f"offline-run-*-{name}")))
    assert [row["_step"] for row in first["rows"]] == [2, 4, 6, 8]
    rows = second["rows"]
    assert_once([row["_step"] for row in rows])
    assert_losses([row["itc"] for row in rows], taken=1)
    assert [(row["_step"], row[RECALL]) for row in rows if RECALL in row] == [(4, 4.0), (8, 8.0)]
    for records in (first, second):
        assert records["config"]["train.lr"] == 1e-4
        assert (records["project"], records["id"], records["name"]) == ("isthmus tests", name, "own/stage1")


def wandb_records(folder):
    """The rows, configuration and name of an offline run, with the reader that `wandb sync` uses."""
    raise NotImplementedError

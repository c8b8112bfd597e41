"""The trackers themselves, offline: a run is killed, resumed, and read back with each tracker's own reader."""

import json
import math
import signal
import struct
import subprocess
import sys
import time

import pytest

import tracked_run
from tracked_run import CHECKPOINT, PROJECT, RECALL, train

pytestmark = pytest.mark.filterwarnings("default")  # their warnings are theirs


@pytest.fixture
def output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return tmp_path / "runs" / "own" / "stage1"


def twice(name, output):
    """A process that is killed after step 8; then on from step 4 to 10, where losses have another decimal."""
    command = [sys.executable, tracked_run.__file__, name, str(output)]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    time.sleep(1)  # event files are told apart by the second; no run begins again as fast as this test
    state = json.loads(killed.stdout.splitlines()[-1])
    assert train(name, output, (CHECKPOINT, 10), state=state, taken=1) == state
    return state


def assert_losses(found, taken):
    """Each step once, in order; the first is NaN; `taken` says which time steps 6 and 8 are of."""
    steps, values = zip(*found, strict=True)
    assert steps == (2, 4, 6, 8, 10)
    assert math.isnan(values[0])
    assert values[1:] == pytest.approx([4.0, 6 + taken / 10, 8 + taken / 10, 10.1])


def test_tensorboard_hides_what_was_taken_again(output):
    pytest.importorskip("tensorboard", reason="TensorBoard is in the extra `trackers`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert twice("tensorboard", output) == {"tensorboard": {}}
    folder = output / "tensorboard" / PROJECT
    read = EventAccumulator(str(folder)).Reload()
    assert_losses([(event.step, event.value) for event in read.Scalars("itc")], taken=1)
    assert [(event.step, event.value) for event in read.Scalars(RECALL)] == [(4, 4.0), (8, 8.0)]
    assert set(read.Tags()["scalars"]) == {"itc", "lr", "skipped", RECALL}
    hyper = [file.read_text() for file in folder.glob("*/hparams.yml")]
    assert len(hyper) == 1 and "train.lr: 0.0001" in hyper[0] and "train.trackers: '[\"x\"]'" in hyper[0]


def test_mlflow_goes_on_with_its_run(output):
    pytest.importorskip("mlflow", reason="MLflow is in the extra `trackers`")
    import mlflow

    state = twice("mlflow", output)
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([mlflow.get_experiment_by_name(PROJECT).experiment_id])
    assert state == {"mlflow": {"run_id": found.info.run_id}}
    assert (found.info.run_name, found.info.status) == ("own/stage1", "FINISHED")
    history = client.get_metric_history(found.info.run_id, "itc")
    assert_losses([(metric.step, metric.value) for metric in history], taken=0)
    recalls = client.get_metric_history(found.info.run_id, RECALL.replace("@", "_at_"))
    assert [(metric.step, metric.value) for metric in recalls] == [(4, 4.0), (8, 8.0)]
    assert found.data.params["train.lr"] == "0.0001"


def test_mlflow_says_that_a_run_was_stopped(output):
    pytest.importorskip("mlflow", reason="MLflow is in the extra `trackers`")
    import mlflow

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("mlflow", output, (0, 4), end=interrupt)
    (found,) = mlflow.MlflowClient().search_runs([mlflow.get_experiment_by_name(PROJECT).experiment_id])
    assert found.info.status == "KILLED"


def test_wandb_offline_writes_a_folder_with_the_whole_run(output):
    pytest.importorskip("wandb", reason="Weights & Biases is in the extra `trackers`")
    name = twice("wandb", output)["wandb"]["id"]
    _, last = sorted((output / "wandb").glob(f"offline-run-*-{name}"))
    found = wandb_records(last)
    for _ in range(300):  # another process writes the file out, shortly after the run has finished
        if found["rows"]:
            break
        time.sleep(0.1)
        found = wandb_records(last)
    rows = found["rows"]
    assert_losses([(row["_step"], row["itc"]) for row in rows], taken=1)
    assert [(row["_step"], row[RECALL]) for row in rows if RECALL in row] == [(4, 4.0), (8, 8.0)]
    assert (found["project"], found["id"], found["name"]) == (PROJECT, name, "own/stage1")
    assert found["config"]["train.lr"] == 1e-4


def wandb_records(folder):
    """The rows, configuration and name in an offline run's file: a LevelDB log whose records are protobufs."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("*.wandb")
    found = {"rows": [], "config": {}}
    for data in leveldb_log(file.read_bytes()[7:]):  # after the header
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found |= {"project": record.run.project, "id": record.run.run_id, "name": record.run.display_name}
            found["config"] |= {one.key: json.loads(one.value_json) for one in record.run.config.update}
        elif kind == "config":
            found["config"] |= {one.key: json.loads(one.value_json) for one in record.config.update}
        elif kind == "history":
            row = {"/".join(one.nested_key) or one.key: json.loads(one.value_json) for one in record.history.item}
            found["rows"].append(row)
    return found


def leveldb_log(content, header=7, block=32_768):
    """The records of a LevelDB log: pieces of at most a block, each with checksum, length and which piece it is."""
    place, whole = header, b""  # the file's own header is part of its first block
    while place - header + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
        _, length, kind = struct.unpack_from("<IHB", content, place - header)
        whole += content[place - header + 7 : place - header + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the only piece, or the last
            yield whole
            whole = b""

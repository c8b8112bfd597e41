"""Runs whose loading workers fail, and runs that keep the batches that are not full."""

import json
import time

import psutil
import pytest

from command_line import isthmus
from isthmus.features.store import StoredLook

pytestmark = pytest.mark.e2e


def test_a_hung_worker_ends_the_run_with_one_sentence(trained, monkeypatch, capfd, tmp_path):
    before = set(psutil.Process().children())  # other tests may have started the interpreter's resource tracker
    monkeypatch.setattr(StoredLook, "__call__", lambda *_: time.sleep(600))
    options = ["data.evaluation=null", "data.workers=1", "data.timeout=3", f"output={tmp_path / 'run'}"]
    assert isthmus("train", trained / "one.yaml", *options) == 2
    (told,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("isthmus: ")]
    assert told.startswith("isthmus: loading worker 0 (pid ")
    assert "gave no batch within 3 seconds; it had last begun row " in told and "pictures/" in told
    assert set(psutil.Process().children()) <= before


@pytest.mark.parametrize(("stage", "batch"), [("one", 23), ("two", 23), ("one", 7)])
def test_a_run_that_keeps_short_batches_trains_on_every_picture(trained, stage, batch, tmp_path):
    """Of 24 pictures in batches of 23 the last has one, which has no negatives."""
    steps = -(-24 // batch)
    options = [f"train.batch_size={batch}", "train.last_batch=keep", f"train.steps={steps}", "train.log_every=1"]
    output = tmp_path / "run"
    assert isthmus("train", trained / f"{stage}.yaml", "data.evaluation=null", *options, f"output={output}") == 0
    record = json.loads((output / "run.json").read_text())
    assert [(one["rows_drawn"], one["different_rows"]) for one in record["sources"]] == [(24, 24)]
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines if "skipped" in line] == [0] * steps

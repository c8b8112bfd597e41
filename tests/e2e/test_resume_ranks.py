"""Several processes that are stopped, killed, or fewer than before: what goes on is what was never stopped."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from command_line import isthmus, tiny_recipes
from isthmus.checkpoints.native import read_bridge
from many_processes import surroundings, torchrun

pytestmark = pytest.mark.e2e

STEPS = 40
COMMON = ["device=cpu", "precision=fp32", "data.evaluation=null", "train.evaluate_every=null", f"train.steps={STEPS}"]
SAVED = ["train.save_every=4", "train.keep=100", "train.log_every=3", "bridge.dropout.hidden=0.1"]
TIMES = ("time", "seconds_per_step", "pairs_per_second")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Both recipes, and stage 1 trained by two processes that nothing stops."""
    place = tmp_path_factory.mktemp("ranks")
    tiny_recipes(place)
    ended = torchrun(*two(), *command(place, "whole"))
    assert ended.returncode == 0, ended.stderr
    return place


def two(*more):
    return ("--standalone", "--nproc-per-node", 2, *more, "-m", "isthmus")


def command(place, output, *more, rows=3, recipe="one.yaml"):
    return ("train", place / recipe, f"output={place / output}", f"train.batch_size={rows}", *COMMON, *SAVED, *more)


def start(*arguments):
    """A launcher that goes on by itself, in a session of its own."""
    launch = [sys.executable, "-m", "torch.distributed.run", *map(str, arguments)]
    return subprocess.Popen(launch, env=surroundings(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def wait_for(folder, step):
    """Wait until a run's checkpoints have come to a step."""
    latest, begun = folder / "checkpoints" / "latest", time.monotonic()
    while not (latest.is_file() and int(latest.read_text().strip().removeprefix("step-")) >= step):
        assert time.monotonic() - begun < 200, "nothing was trained"
        time.sleep(0.02)


def lines(folder):
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [record for record in records if "gradient_norm" in record]
    return {r["step"]: {key: value for key, value in r.items() if key not in TIMES} for r in steps}


def assert_equal_runs(one, other):
    first, second = read_bridge(one / "bridge").tensors, read_bridge(other / "bridge").tensors
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert lines(one) == lines(other)


def resumed(folder):
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record["resume"]["step"] for record in records if "resume" in record]


@pytest.fixture(scope="module")
def second(place):
    """How stage 2 is asked for, trained by two processes that nothing stops."""
    asked = (f"init.from={place / 'whole'}", "train.accumulation=2")
    ended = torchrun(*two(), *command(place, "whole-2", *asked, recipe="two.yaml"))
    assert ended.returncode == 0, ended.stderr
    return asked


@pytest.mark.parametrize("stage", [1, 2])
def test_two_processes_that_are_terminated_go_on_bit_for_bit(place, second, stage):
    name = "terminated" if stage == 1 else "terminated-2"
    asked = command(place, name) if stage == 1 else command(place, name, *second, recipe="two.yaml")
    whole, output = place / ("whole" if stage == 1 else "whole-2"), place / name
    launcher = start(*two(), *asked)
    wait_for(output, 8)
    launcher.send_signal(signal.SIGTERM)
    _, said = launcher.communicate(timeout=200)
    assert launcher.returncode != 0
    if not (output / "run.json").is_file():  # it may have been faster
        assert "isthmus: terminated after step" in said
        assert torchrun(*two(), *asked).returncode == 0
        assert len(resumed(output)) == 1
    assert_equal_runs(whole, output)


def test_a_process_that_is_killed_takes_the_others_with_it_and_a_launcher_starts_all_again(place):
    output = place / "killed"
    launcher = start(*two("--max-restarts", 1), *command(place, "killed"))
    wait_for(output, 8)
    ranks = [one for one in psutil.Process(launcher.pid).children() if "isthmus" in one.cmdline()]
    assert len(ranks) == 2
    os.kill(ranks[1].pid, signal.SIGKILL)
    _, said = launcher.communicate(timeout=250)
    assert launcher.returncode == 0, said
    assert len(resumed(output)) == 1 and resumed(output)[0] >= 8
    assert_equal_runs(place / "whole", output)


def test_one_process_goes_on_for_two_with_the_same_pictures(place):
    dry = [f"bridge.dropout.{where}=0" for where in ("embedding", "attention", "hidden")] + ["train.steps=12"]
    ended = torchrun(*two(), *command(place, "dry", *dry))
    assert ended.returncode == 0, ended.stderr
    kept = f"resume={place / 'dry' / 'checkpoints' / 'step-00000004'}"
    assert isthmus(*command(place, "one", kept, *dry, rows=6)) == 0
    before, after = lines(place / "dry"), lines(place / "one")
    assert sorted(after) == [6, 9, 12]
    for step, line in after.items():
        assert line == pytest.approx(before[step], rel=1e-3), step
    records = [json.loads(line) for line in (place / "one" / "log.jsonl").read_text().splitlines()]
    assert records[0]["resume"]["processes"] == {"before": 2, "now": 1}


def test_another_batch_of_all_processes_is_refused(place, capfd):
    kept = place / "whole" / "checkpoints" / "step-00000008"
    assert isthmus(*command(place, "less", f"resume={kept}")) == 2
    assert "6 rows in a batch of all 2 processes" in capfd.readouterr().err.splitlines()[-1]

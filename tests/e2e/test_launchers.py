"""One recipe trained by several processes, under each launcher and on two hosts: the same bridge."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from command_line import isthmus, tiny_recipes
from isthmus.checkpoints.native import read_bridge
from many_processes import free_port, surroundings, torchrun

pytestmark = pytest.mark.e2e
WITHOUT_DROPOUT = [f"bridge.dropout.{where}=0" for where in ("embedding", "attention", "hidden")]
COMMON = ["device=cpu", "precision=fp32", "data.evaluation=null", "train.evaluate_every=null", "train.log_every=1"]
TWO_HOSTS = Path(__file__).parent / "two_hosts.sh"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Both stages trained by one process: batches of six."""
    place = tmp_path_factory.mktemp("world")
    for recipe in tiny_recipes(place):
        assert isthmus(*command(place, recipe.stem, "alone"), "train.batch_size=6") == 0
    return place


def command(world, recipe, how, *overrides):
    """A run of a stage by some way of starting it; stage 2 goes on from what one process has trained."""
    further = ["init.from=" + str(world / "one-alone"), "bridge.projection=random"] if recipe == "two" else []
    output = f"output={world / f'{recipe}-{how}'}"
    return ["train", str(world / f"{recipe}.yaml"), output, *COMMON, *WITHOUT_DROPOUT, *further, *overrides]


def bridge(world, run):
    return read_bridge(world / run / "bridge").tensors


def lines(world, run):
    return [json.loads(line) for line in (world / run / "log.jsonl").read_text().splitlines()]


def by_torchrun(world, recipe, *overrides, how="torchrun"):
    run = command(world, recipe, how, "train.batch_size=3", *overrides)
    return torchrun("--standalone", "--nproc-per-node", 2, "-m", "isthmus", *run)


def by_accelerate(world, recipe):
    start = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    rest = ["--dynamo_backend", "no", "--main_process_port", str(free_port()), "-m", "isthmus"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *start, *rest]
    run = command(world, recipe, "accelerate", "train.batch_size=3")
    return subprocess.run([*launch, *run], env=surroundings(), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("recipe", ["one", "two"])
def test_two_processes_train_the_bridge_of_one_under_either_launcher(world, recipe):
    for start in (by_torchrun, by_accelerate):
        ended = start(world, recipe)
        assert ended.returncode == 0, ended.stderr
    alone, one, other = (bridge(world, f"{recipe}-{how}") for how in ("alone", "torchrun", "accelerate"))
    assert alone.keys() == one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert read_bridge(world / f"{recipe}-torchrun" / "bridge").provenance["processes"] == 2
    check_equal_to_rounding(world, recipe, alone, one)


def check_equal_to_rounding(world, recipe, alone, together):
    for before, after in zip(
        lines(world, f"{recipe}-alone")[1:-1], lines(world, f"{recipe}-torchrun")[1:-1], strict=True
    ):
        for name in {"itc", "itm", "itg", "lm", "gradient_norm"} & before.keys():
            assert after[name] == pytest.approx(before[name], rel=1e-4), (before["step"], name)
    for name, tensor in alone.items():
        assert torch.allclose(together[name], tensor, atol=1e-4), name  # the rate is 1e-3, the steps are six


def test_a_language_model_is_shared_out(world):
    ended = by_torchrun(world, "two", "llm.sharded=true", "data.held_out=0.25", how="sharded")
    assert ended.returncode == 0, ended.stderr
    whole = by_torchrun(world, "two", "data.held_out=0.25", how="whole")
    assert whole.returncode == 0, whole.stderr
    records = [json.loads((world / f"two-{how}" / "run.json").read_text()) for how in ("sharded", "whole")]
    assert records[0]["figures"] == records[1]["figures"] and records[0]["figures"]["captions"]
    assert records[0]["tower_hashes"] == records[1]["tower_hashes"]
    assert records[0]["towers_unchanged"] == {"encoder": True, "llm": True}
    assert isthmus("evaluate", world / "two-sharded") == 0  # in one process, whole


def test_two_hosts_train_the_bridge_of_one(world):
    for program in ("unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            pytest.skip(f"two hosts need the program {program}, which is not here")
    allowed = subprocess.run(["unshare", "-rn", "unshare", "-n", "true"], capture_output=True, text=True, check=False)
    if allowed.returncode:
        pytest.skip(f"two hosts need network namespaces, which are not permitted here: {allowed.stderr.strip()}")
    run = command(world, "one", "hosts", "train.batch_size=3")
    start = ["unshare", "-rn", "bash", str(TWO_HOSTS), sys.executable, "-m", "isthmus", *run]
    ended = subprocess.run(start, env=surroundings(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    if not (world / "one-torchrun").exists():
        assert by_torchrun(world, "one").returncode == 0
    one, hosts = bridge(world, "one-torchrun"), bridge(world, "one-hosts")
    assert all(torch.equal(one[name], hosts[name]) for name in one)
    gradients = sum(tensor.nbytes for tensor in one.values()) * 6
    assert int(ended.stdout.split("sent over the wire:")[1]) > gradients  # a ring of two: each sends all of them once

"""What a run says before its first step, and what a resume says that it took."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import distributed as group
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from command_line import tiny_recipes
from isthmus.build.greeting import Greeting, Resumed, Saving, greeting, resumed
from isthmus.build.precision import Compute
from isthmus.build.run import build_training
from isthmus.config.stages import load_stages
from isthmus.shadow import storage_bytes

GREETING = Greeting(
    stage=1,
    device="cpu",
    precision="bfloat16",
    processes=1,
    towers={"encoder": 3_413_024},
    trained=33_100_000,
    pairs=64,
    negatives=63,
    steps=1000,
    epochs=6.2,
    memory={"weights": 100 << 20, "gradients": 60 << 20, "AdamW": 120 << 20},
    stored=3 << 30,
    saving=Saving("runs/own/stage1/checkpoints", steps=500, keep=3),
)


def test_one_line_says_what_a_run_is():
    line = GREETING.line()
    assert line == (
        "stage 1 in bfloat16 on cpu: frozen encoder (3.41 M), trained 33.1 M; 64 pairs a step, 63 negatives "
        "each in ITC; 1,000 steps, 6.2 epochs; 280 MiB before activations (weights, gradients, AdamW), 3 GiB of "
        "features on disk; checkpoints every 500 steps in runs/own/stage1/checkpoints, the last 3 kept"
    )
    assert len(line) < 300


def test_stage_2_on_many_processes_has_no_negatives():
    towers = {"encoder": 985_952_256, "llm": 2_651_596_800}
    two = replace(GREETING, stage=2, processes=16, towers=towers, negatives=None, stored=None, pairs=1920)
    line = two.line()
    assert "frozen encoder (986 M) and llm (2.65 B), trained" in line
    assert "1,920 pairs a step over 16 processes; 1,000 steps" in line
    assert "features" not in line and len(line) < 300


@pytest.mark.parametrize(
    ("saving", "words"),
    [
        (Saving("a"), "checkpoints at the end in a"),
        (Saving("a", minutes=15.0), "checkpoints every 15 min in a"),
        (Saving("a", 1500, 7.5, 1), "checkpoints every 1,500 steps or 7.5 min in a, the last one kept"),
        (Saving("a", 10, keep=2, best="R@1"), "checkpoints every 10 steps in a, the last 2 and the best by R@1 kept"),
    ],
)
def test_where_checkpoints_go_and_how_often(saving, words):
    assert saving.line() == words


def test_the_record_is_json():
    record = json.loads(json.dumps(GREETING.record()))
    assert (record["trained"], record["negatives"], record["memory"]["AdamW"]) == (33_100_000, 63, 120 << 20)
    assert record["saving"]["folder"] == "runs/own/stage1/checkpoints"


def test_it_is_collected_from_a_run_that_is_ready(tmp_path):
    """The oracle is the run itself, after one step."""
    AcceleratorState._reset_state(reset_partial_state=True)
    recipe, _ = tiny_recipes(tmp_path)
    overrides = ["precision=fp32", "data.evaluation=null", "train.evaluate_every=null"]
    training = build_training(load_stages(recipe, overrides).runs[0], progress=lambda *_: None)
    compute, trainer = training.workshop.compute, training.trainer
    saving = Saving("a")
    found = greeting(training.config, trainer, training.towers, compute, saving=saving, stored=None)
    trainer.step([next(iter(training.batches))], 0)
    bridge = [one for one in training.stage.bridge.parameters() if one.requires_grad]
    assert found.trained == sum(one.numel() for one in bridge)
    assert found.towers == {"encoder": sum(one.numel() for one in training.workshop.encoder.parameters())}
    state = [one for state in trainer.raw_optimizer.state.values() for name, one in state.items() if name != "step"]
    assert found.memory["AdamW"] == storage_bytes(state)
    assert found.memory["gradients"] == storage_bytes(bridge)
    assert (found.stage, found.device, found.precision, found.processes) == (1, "cpu", "float32", 1)
    assert (found.pairs, found.negatives, found.steps, found.epochs) == (6, 5, 6, 1.5)
    assert (found.stored, found.saving) == (None, saving)
    taken = resumed(trainer, Path("a/step-00000005"), 5, processes=2, passed_over=["a: b"])
    assert (taken.steps, taken.epoch, taken.batch, taken.batches) == (6, 1, 1, 4)
    assert (taken.processes, taken.passed_over) == ((2, 1), ("a: b",))


class Shared(nn.Module):
    """A tower of which each of two processes has a half."""

    def __init__(self):
        super().__init__()
        mesh = init_device_mesh("cpu", (2,))
        self.register_buffer("whole", torch.zeros(10))
        self.weight = nn.Parameter(DTensor.from_local(torch.zeros(4, 8), mesh, [Shard(0)]), requires_grad=False)


def test_of_a_shared_tower_a_process_holds_its_part():
    """With a process group that sends nothing."""
    plan = SimpleNamespace(accumulation=1, steps=10, batches_per_epoch=5)
    trainer = SimpleNamespace(plan=plan, parameters=[])
    config = SimpleNamespace(stage=2, train=SimpleNamespace(batch_size=3))
    group.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        towers, compute = {"llm": SimpleNamespace(module=Shared())}, Compute(torch.device("cpu"), torch.float32)
        found = greeting.__wrapped__(config, trainer, towers, compute, saving=Saving("a"), stored=None)
    finally:
        group.destroy_process_group()
    assert found.towers == {"llm": 64}
    assert found.memory["weights"] == 4 * (10 + 32)
    assert (found.processes, found.pairs, found.epochs) == (2, 6, 2.0)


RESUMED = Resumed(Path("runs/own/checkpoints/step-00000120"), 120, 1000, 2, 20, 50, (2, 2))


def test_a_resume_says_what_it_took_from_where():
    assert RESUMED.line() == (
        "resumed from runs/own/checkpoints/step-00000120: 120 of 1,000 steps are done; epoch 3 goes on after 20 of 50 "
        "batches"
    )


def test_a_resume_says_what_it_passed_over_and_that_processes_changed():
    sentence = "runs/own/checkpoints/step-00000140: model.safetensors is damaged"
    lines = replace(RESUMED, processes=(2, 3), passed_over=[sentence]).line().splitlines()
    assert lines[0].endswith("; 3 processes, 2 before: the same pictures in the same order, other dropout")
    assert lines[1:] == [f"passed over: {sentence}"]


def test_a_resume_s_record_is_json_and_names_its_step():
    record = replace(RESUMED, processes=(2, 3), passed_over=["a: b"]).record()
    assert json.loads(json.dumps(record)) == {
        "resume": {
            "folder": "runs/own/checkpoints/step-00000120",
            "step": 120,
            "steps": 1000,
            "epoch": 2,
            "batch": 20,
            "batches": 50,
            "processes": {"before": 2, "now": 3},
            "passed_over": ["a: b"],
        }
    }

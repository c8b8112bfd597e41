"""What a run's optimizer and plan take from its config, and what it says of a place that it cannot write."""

from pathlib import Path

import pytest
import torch
from torch import nn

from bridges import tiny_bridge
from fakes import tiny_bert_folder
from isthmus.build.bridge import fresh_bridge
from isthmus.build.plan import optimizer_of, plan_of
from isthmus.build.precision import Compute
from isthmus.build.run import _provenance, _refuse_other_precision, build_training
from isthmus.build.training import _write_record
from isthmus.build.workshop import Tower
from isthmus.checkpoints.card import model_card
from isthmus.checkpoints.shelf import Found
from isthmus.checkpoints.training import TrainingFile
from isthmus.config.model import BridgeConfig
from isthmus.config.run import check
from isthmus.errors import ConfigError, UserError
from isthmus.models.stage1 import Stage1
from isthmus.records import BridgeFile

CONTENT = {
    "stage": 1,
    "output": "runs/a",
    "data": {"train": {"folder": "pictures"}},
    "encoder": {"kind": "timm", "name": "vit"},
    "bridge": {"bert": "folder:bert"},
}


def config(output="runs/a", **train):
    return check({**CONTENT, "output": str(output), "train": {"steps": 100, "batch_size": 4, **train}}, "here")


@pytest.mark.parametrize("name", ["log.jsonl", "run.json"])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_read(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"{name} cannot be written \(Is a directory\); choose another output"):
        build_training(config(tmp_path), progress=print)  # there are no pictures either
    with pytest.raises(UserError, match=r"^/proc/x/y/log\.jsonl cannot be written"):
        build_training(config("/proc/x/y"), progress=print)


def test_a_record_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(
        UserError, match=r"run\.json cannot be written \(Is a directory\); the bridge beside it is whole"
    ):
        _write_record(tmp_path / "run.json", {"seconds": 1.0})


def test_the_temperature_is_decayed_where_asked(tmp_path):
    built = fresh_bridge(BridgeConfig(bert=f"folder:{tiny_bert_folder(tmp_path)}"), 6, seed=0)

    def decay(**train):
        groups = optimizer_of(config(weight_decay=0.2, **train), built).param_groups
        return next(g["weight_decay"] for g in groups if any(p is built.bridge.heads.temperature for p in g["params"]))

    assert (decay(), decay(decay_temperature=True)) == (0.0, 0.2)


def test_the_schedule_is_the_config_s():
    rates = {"warmup": 0.2, "warmup_from": 0.5, "lr_min": 0.1}
    by_step, by_epoch = (plan_of(config(schedule=kind, **rates), 25) for kind in ("step", "epoch"))
    assert [by_step.rate(number) for number in (0, 19, 100)] == pytest.approx([0.525, 1.0, 0.1])
    assert [by_epoch.rate(number) for number in (0, 10, 24, 50, 74)] == pytest.approx([0.5, 0.75, 1.0, 0.55, 0.55])


def test_a_tower_s_licence_goes_into_the_card_where_the_config_states_it():
    towers = {name: Tower(nn.Identity(), f"folder:{name}", "f" * 32, "") for name in ("encoder", "llm")}
    content = {key: value for key, value in CONTENT.items() if key != "bridge"}
    stated = {
        **content,
        "stage": 2,
        "init": {"from": "runs/one"},
        "encoder": {"kind": "timm", "name": "vit", "licence": "MIT"},
        "llm": {"weights": "folder:llama"},
        "train": {"steps": 1, "batch_size": 2},
    }
    provenance = _provenance(
        check(stated, "here"), Stage1(tiny_bridge(), dec=1), towers, Compute(torch.device("cpu"), torch.float32)
    )
    card = model_card({**provenance, "stage": 2})
    assert f"| encoder | `folder:encoder` | `{'f' * 32}` | MIT |" in card
    assert f"| llm | `folder:llm` | `{'f' * 32}` | unknown |" in card


def test_a_run_goes_on_in_the_precision_that_it_was_begun_in():
    bridge = BridgeFile(tiny_bridge().sizes, {}, {"precision": "bfloat16"})
    found = Found(Path("runs/a/checkpoints/step-00000004"), TrainingFile(bridge, {}, {}, {}), [])
    _refuse_other_precision(found, "bfloat16")
    with pytest.raises(ConfigError, match=r"step-00000004 was trained in bfloat16, and this run .* in float32; take"):
        _refuse_other_precision(found, "float32")

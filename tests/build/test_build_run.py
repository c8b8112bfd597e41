"""What a run's optimizer and plan take from its config."""

import pytest

from fakes import tiny_bert_folder
from isthmus.build.bridge import fresh_bridge
from isthmus.build.run import _optimizer, _plan
from isthmus.config.model import BridgeConfig
from isthmus.config.run import check

CONTENT = {
    "stage": 1,
    "output": "runs/a",
    "data": {"train": {"folder": "pictures"}},
    "encoder": {"kind": "timm", "name": "vit"},
    "bridge": {"bert": "folder:bert"},
}


def config(**train):
    return check({**CONTENT, "train": {"steps": 100, "batch_size": 4, **train}}, "here")


def test_the_temperature_is_decayed_where_asked(tmp_path):
    built = fresh_bridge(BridgeConfig(bert=f"folder:{tiny_bert_folder(tmp_path)}"), 6, seed=0)

    def decay(**train):
        groups = _optimizer(config(weight_decay=0.2, **train), built).param_groups
        return next(g["weight_decay"] for g in groups if any(p is built.bridge.heads.temperature for p in g["params"]))

    assert (decay(), decay(decay_temperature=True)) == (0.0, 0.2)


def test_the_schedule_is_the_config_s():
    rates = {"warmup": 0.2, "warmup_from": 0.5, "lr_min": 0.1}
    by_step, by_epoch = (_plan(config(schedule=kind, **rates), 25) for kind in ("step", "epoch"))
    assert [by_step.rate(number) for number in (0, 19, 100)] == pytest.approx([0.525, 1.0, 0.1])
    assert [by_epoch.rate(number) for number in (0, 10, 24, 50, 74)] == pytest.approx([0.5, 0.75, 1.0, 0.55, 0.55])

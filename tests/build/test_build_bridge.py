"""Bridges built: fresh, and stage 2's from a stage-1 folder, each with what it took and what is new."""

import pytest
import torch
from torch import nn

from fakes import tiny_bert_folder
from isthmus.build.bridge import fresh_bridge, read_stage1, stage2_bridge
from isthmus.build.workshop import Tower, check_tower
from isthmus.checkpoints.native import write_bridge
from isthmus.config.model import BridgeConfig, DropoutConfig, ScratchConfig
from isthmus.errors import CheckpointError
from isthmus.records import BridgeFile, BridgeSizes


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert_folder(tmp_path_factory.mktemp("bert"))


def saved(built, folder, stage):
    file = BridgeFile(built.bridge.sizes, dict(built.bridge.state_dict()), {"stage": stage})
    write_bridge(file, folder, save_tokenizer=built.tokenizer.save)
    return folder


def configured(bert, **fields):
    return BridgeConfig(bert=f"folder:{bert}", queries=4, shared_width=8, **fields)


def test_a_fresh_bridge_names_what_started_random(bert):
    built = fresh_bridge(configured(bert, dropout=DropoutConfig(hidden=0.3)), 6, seed=0)
    names = dict(built.bridge.named_parameters())
    assert built.bridge.sizes.vocabulary == built.tokenizer.vocabulary
    assert set(built.fresh) <= set(names)
    assert {"qformer.queries", "heads.match.weight", "qformer.memory.keys.0.weight"} <= built.fresh
    assert "qformer.text.words.weight" not in built.fresh
    assert built.bridge.qformer.layers[0].query_feed_forward.dropout == 0.3
    assert all(torch.isfinite(parameter).all() for parameter in names.values())
    again = fresh_bridge(configured(bert), 6, seed=0).bridge.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in built.bridge.state_dict().items())
    other = fresh_bridge(configured(bert), 6, seed=1).bridge.state_dict()
    assert not torch.equal(again["qformer.queries"], other["qformer.queries"])


def test_from_scratch_everything_is_fresh(bert):
    scratch = ScratchConfig(tokenizer=f"folder:{bert}", width=8, layers=2, heads=2, feed_forward_width=12)
    built = fresh_bridge(BridgeConfig(scratch=scratch, queries=4, shared_width=8), 6, seed=0)
    assert built.fresh == set(built.bridge.state_dict())


@pytest.mark.parametrize("inside", ["", "bridge"])
def test_stage_2_takes_the_query_path_and_leaves_the_text(bert, tmp_path, inside):
    first = fresh_bridge(configured(bert), 6, seed=0)
    saved(first, tmp_path / "run" / inside if inside else tmp_path / "run", 1)
    built = stage2_bridge(tmp_path / "run", BridgeConfig(), language_width=10)
    names = set(built.bridge.state_dict())
    assert built.fresh == {"projection.weight", "projection.bias"}
    assert not [name for name in names if ".text" in name or name.startswith("heads.")]
    for name in names - built.fresh:
        assert torch.equal(built.bridge.state_dict()[name], first.bridge.state_dict()[name]), name
    assert built.tokenizer.dec == first.tokenizer.dec
    assert f"{len(names) - 2} tensors taken, 2 new" in built.report[0]


def test_a_folder_that_is_no_stage_1_run_is_refused(bert, tmp_path):
    stage2 = saved(fresh_bridge(configured(bert), 6, seed=0), tmp_path / "two", 2)
    with pytest.raises(CheckpointError, match="is the bridge of stage 2, stage 2 starts from stage 1"):
        stage2_bridge(stage2, BridgeConfig(), language_width=10)
    for folder, message in ((bert, "is no model folder"), (tmp_path / "nothing", "there is no folder")):
        with pytest.raises(CheckpointError, match=message):
            read_stage1(folder)


def test_another_tower_than_the_one_trained_with_is_refused_by_fingerprint():
    tower = {"address": "folder:clip", "fingerprint": "a" * 32, "hidden_layer": -2}
    file = BridgeFile(BridgeSizes(6), {}, {"precision": "float32", "towers": {"encoder": tower}})
    check_tower(file, "encoder", Tower(nn.Identity(), "folder:moved", "a" * 32, "", -2))
    with pytest.raises(CheckpointError, match=r"the encoder folder:other is not the one .*, folder:clip \(bbb"):
        check_tower(file, "encoder", Tower(nn.Identity(), "folder:other", "b" * 32, "", -2))
    with pytest.raises(CheckpointError, match=r"trained with hidden layer -2 of folder:clip, not None"):
        check_tower(file, "encoder", Tower(nn.Identity(), "folder:clip", "a" * 32, ""))

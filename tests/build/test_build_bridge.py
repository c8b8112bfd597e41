"""Fresh bridges, with what started random, and the tower that a bridge belongs to."""

import pytest
import torch
from torch import nn

from fakes import tiny_bert_folder
from isthmus.build.bridge import fresh_bridge, load_bridge
from isthmus.build.workshop import Tower, check_tower
from isthmus.config.model import BridgeConfig, DropoutConfig, ScratchConfig
from isthmus.errors import CheckpointError, ConfigError
from isthmus.records import BridgeFile, BridgeSizes


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert_folder(tmp_path_factory.mktemp("bert"))


def configured(bert, **fields):
    return BridgeConfig(bert=f"folder:{bert}", queries=4, shared_width=8, **fields)


def test_a_fresh_bridge_names_what_started_random(bert):
    built = fresh_bridge(configured(bert, dropout=DropoutConfig(hidden=0.3)), 6, seed=0)
    names = dict(built.bridge.named_parameters())
    assert built.bridge.sizes.vocabulary == built.tokenizer.vocabulary
    assert set(built.fresh) <= set(names)
    assert {"qformer.queries", "heads.match.weight", "qformer.memory.keys.0.weight"} <= built.fresh
    assert not {"qformer.text.words.weight", "heads.temperature"} & built.fresh
    assert built.bridge.qformer.layers[0].query_feed_forward.dropout == 0.3
    assert all(torch.isfinite(parameter).all() for parameter in names.values())
    again = fresh_bridge(configured(bert), 6, seed=0).bridge.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in built.bridge.state_dict().items())
    other = fresh_bridge(configured(bert), 6, seed=1).bridge.state_dict()
    assert not torch.equal(again["qformer.queries"], other["qformer.queries"])


def test_from_scratch_everything_is_fresh_but_the_temperature(bert):
    scratch = ScratchConfig(tokenizer=f"folder:{bert}", width=8, layers=2, heads=2, feed_forward_width=12)
    built = fresh_bridge(BridgeConfig(scratch=scratch, queries=4, shared_width=8), 6, seed=0)
    assert built.fresh == set(built.bridge.state_dict()) - {"heads.temperature"}


def test_texts_longer_than_the_positions_are_refused(bert):
    with pytest.raises(ConfigError, match=r"`bridge.max_tokens` is 65 but the Q-Former has 64 positions"):
        fresh_bridge(configured(bert, max_tokens=65), 6, seed=0)


def test_a_folder_whose_tensors_do_not_fit_its_sizes_is_refused(bert):
    built = fresh_bridge(configured(bert), 6, seed=0)
    state = built.bridge.state_dict()
    loaded = load_bridge(BridgeFile(built.bridge.sizes, state, {})).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    shorter = {**state, "qformer.queries": state["qformer.queries"][:3]}
    with pytest.raises(CheckpointError, match=r"does not fit its own sizes: qformer.queries \(3, 16\)"):
        load_bridge(BridgeFile(built.bridge.sizes, shorter, {}))
    del shorter["qformer.queries"]
    with pytest.raises(CheckpointError, match=r"does not fit its own sizes: qformer.queries"):
        load_bridge(BridgeFile(built.bridge.sizes, shorter, {}))


def test_another_tower_than_the_one_trained_with_is_refused_by_fingerprint():
    tower = {"address": "folder:clip", "fingerprint": "a" * 32, "hidden_layer": -2}
    file = BridgeFile(BridgeSizes(6), {}, {"precision": "float32", "towers": {"encoder": tower}})
    check_tower(file, "encoder", Tower(nn.Identity(), "folder:moved", "a" * 32, "", -2))
    with pytest.raises(CheckpointError, match=r"the encoder folder:other is not the one .*, folder:clip \(bbb"):
        check_tower(file, "encoder", Tower(nn.Identity(), "folder:other", "b" * 32, "", -2))
    with pytest.raises(CheckpointError, match=r"trained with encoder\.hidden_layer=-2 of folder:clip, not None"):
        check_tower(file, "encoder", Tower(nn.Identity(), "folder:clip", "a" * 32, ""))

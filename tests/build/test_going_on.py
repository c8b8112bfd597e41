"""Going on from a folder: what each stage takes of each, what starts anew, what is left, and what is refused."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fakes import tiny_bert_folder
from isthmus.build.bridge import fresh_bridge
from isthmus.build.going_on import PROJECTION, read_start, stage1_from, stage2_from
from isthmus.build.stages import learning_rates
from isthmus.build.workshop import Tower
from isthmus.checkpoints.native import write_bridge
from isthmus.config.model import BridgeConfig, DropoutConfig
from isthmus.config.run import InitConfig
from isthmus.config.train import TrainConfig
from isthmus.errors import CheckpointError, ConfigError
from isthmus.records import BridgeFile
from isthmus.train.optimizer import Rates

ENCODER, LLAMA, OTHER = (Tower(nn.Identity(), f"folder:{name}", name[0] * 32, "") for name in ("clip", "llama", "opt"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert_folder(tmp_path_factory.mktemp("bert"))


def saved(built, folder, stage):
    """The folder of a bridge whose tensors, the projection's too, are all of one number: the stage's."""
    known = {name: {"address": t.address, "fingerprint": t.fingerprint} for name, t in towers(stage).items()}
    tensors = {name: torch.full_like(tensor, stage) for name, tensor in built.bridge.state_dict().items()}
    file = BridgeFile(built.bridge.sizes, tensors, {"stage": stage, "towers": known})
    write_bridge(file, folder, save_tokenizer=built.tokenizer.save)
    return folder


def towers(stage):
    return {"encoder": ENCODER, "llm": LLAMA} if stage == 2 else {"encoder": ENCODER}


def start(folder, encoder=ENCODER):
    return read_start(InitConfig.model_validate({"from": str(folder)}), encoder)


@pytest.fixture(scope="module")
def one(bert, tmp_path_factory):
    built = fresh_bridge(BridgeConfig(bert=f"folder:{bert}", queries=4, shared_width=8), 6, seed=0)
    return saved(built, tmp_path_factory.mktemp("one") / "run", 1)


@pytest.fixture(scope="module")
def two(one, tmp_path_factory):
    built = stage2_from(start(one), BridgeConfig(), LLAMA, language_width=10)
    return saved(built, tmp_path_factory.mktemp("two") / "run", 2)


def values(built):
    return {name: tensor.unique().tolist() for name, tensor in built.bridge.state_dict().items()}


def names_in(built, kind):
    return {line.split()[1] for line in built.report[1:] if line.split()[0] == kind}


def test_stage_1_from_stage_1_takes_everything(one):
    built = stage1_from(start(one), BridgeConfig(dropout=DropoutConfig(hidden=0.3)), seed=0)
    assert set(map(tuple, values(built).values())) == {(1.0,)}
    assert built.fresh == frozenset() and names_in(built, "taken") == set(built.bridge.state_dict())
    assert built.report[0].endswith(f"{len(built.report) - 1} tensors taken, 0 new, 0 left")
    assert built.bridge.sizes.language_width is None and built.bridge.sizes.shared_width == 8
    assert built.bridge.qformer.layers[0].query_feed_forward.dropout == 0.3


def test_stage_2_from_stage_1_takes_the_query_path_and_leaves_the_text(one):
    built = stage2_from(start(one), BridgeConfig(), LLAMA, language_width=10)
    names = set(built.bridge.state_dict())
    assert built.fresh == set(PROJECTION) == names_in(built, "new")
    assert not [name for name in names if ".text" in name or name.startswith("heads.")]
    assert all(found == [1.0] for name, found in values(built).items() if name not in PROJECTION)
    left = names_in(built, "left")
    assert {"qformer.text.words.weight", "heads.match.weight", "heads.temperature"} <= left
    assert names_in(built, "taken") == names - set(PROJECTION) and not left & names
    assert f"{len(names) - 2} tensors taken, 2 new, {len(left)} left" in built.report[0]
    assert "starts anew" not in built.report[0]


def test_stage_2_from_stage_2_keeps_the_projection_into_the_same_language_model(two):
    moved = Tower(nn.Identity(), "folder:elsewhere", LLAMA.fingerprint, "")
    built = stage2_from(start(two), BridgeConfig(), moved, language_width=10)
    assert built.fresh == frozenset() and set(map(tuple, values(built).values())) == {(2.0,)}


@pytest.mark.parametrize(("llm", "width"), [(OTHER, 10), (LLAMA, 12), (OTHER, 12)])
def test_another_language_model_starts_the_projection_anew_and_says_so(two, llm, width):
    built = stage2_from(start(two), BridgeConfig(), llm, language_width=width)
    assert built.fresh == set(PROJECTION) == names_in(built, "new") == names_in(built, "left")
    assert built.bridge.projection.weight.shape == (width, 16)
    assert "the projection starts anew, for it led into another language model: folder:llama" in built.report[0]
    assert all(found == [2.0] for name, found in values(built).items() if name not in PROJECTION)


def test_stage_1_from_stage_2_is_refused_where_the_text_half_is_absent(two):
    with pytest.raises(CheckpointError, match=r"is a bridge of stage 2, which leaves the text half behind.*; give the"):
        stage1_from(start(two), BridgeConfig(), seed=0)


def test_stage_1_from_a_stage_2_bridge_that_kept_its_text_half_leaves_the_projection(bert, tmp_path):
    whole = fresh_bridge(BridgeConfig(bert=f"folder:{bert}", queries=4, shared_width=8), 6, seed=0)
    sizes = {**vars(whole.bridge.sizes), "language_width": 10}
    built = SimpleNamespace(bridge=type(whole.bridge)(type(whole.bridge.sizes)(**sizes)), tokenizer=whole.tokenizer)
    again = stage1_from(start(saved(built, tmp_path / "whole", 2)), BridgeConfig(), seed=0)
    assert names_in(again, "left") == set(PROJECTION) and again.fresh == frozenset()
    assert again.bridge.projection is None


def test_the_run_s_folder_or_the_bridge_itself(bert, tmp_path):
    built = fresh_bridge(BridgeConfig(bert=f"folder:{bert}", queries=4, shared_width=8), 6, seed=0)
    saved(built, tmp_path / "run" / "bridge", 1)
    for folder in (tmp_path / "run", tmp_path / "run" / "bridge"):
        assert stage1_from(start(folder), BridgeConfig(), seed=0).tokenizer.dec == built.tokenizer.dec


def test_another_image_encoder_is_refused(one):
    with pytest.raises(CheckpointError, match="the encoder folder:llama is not the one this bridge was trained with"):
        start(one, LLAMA)


def test_what_is_no_model_folder_is_refused(bert, tmp_path):
    for folder, message in ((bert, "is no model folder"), (tmp_path / "nothing", "there is no folder")):
        with pytest.raises(CheckpointError, match=message):
            start(folder)


@pytest.mark.parametrize(
    ("key", "value", "own"), [("queries", 5, 4), ("shared_width", 9, 8), ("cross_frequency", 1, 2)]
)
def test_a_contradicting_size_is_refused_and_the_folder_s_own_is_written_down(one, key, value, own):
    with pytest.raises(ConfigError, match=f"`bridge.{key}` is {value}, but the bridge in .* was made with {own}"):
        stage1_from(start(one), BridgeConfig(**{key: value}), seed=0)
    built = stage1_from(start(one), BridgeConfig(**{key: own}), seed=0)
    assert (built.config.queries, built.config.shared_width) == (4, 8)
    assert stage1_from(start(one), built.config, seed=0).config == built.config


def test_a_saved_config_of_stage_2_can_be_used_again_from_stage_2(one, two):
    config = stage2_from(start(one), BridgeConfig(), LLAMA, language_width=10).config
    assert stage2_from(start(two), config, LLAMA, language_width=10).config.queries == 4


def test_texts_longer_than_the_folder_s_positions_are_refused(one):
    with pytest.raises(ConfigError, match=r"`bridge.max_tokens` is 65 but the Q-Former has 64 positions"):
        stage1_from(start(one), BridgeConfig(max_tokens=65), seed=0)


def test_a_projection_learns_as_new_only_where_it_is_new(one, two):
    train = TrainConfig(steps=1, batch_size=1, lr=1e-4, lr_new=9e-4)
    new, taken = (stage2_from(start(folder), BridgeConfig(), LLAMA, language_width=10) for folder in (one, two))
    assert learning_rates(train, new) == Rates(1e-4, 9e-4, 9e-4)
    assert learning_rates(train, taken) == Rates(1e-4, 9e-4, 1e-4)
    own = train.model_copy(update={"lr_projection": 2e-3})
    assert learning_rates(own, new).projection == learning_rates(own, taken).projection == 2e-3


def test_a_folder_of_both_runs_is_told_to_give_one(one, tmp_path):
    shutil.copytree(one, tmp_path / "stage1")
    with pytest.raises(ConfigError, match=f"holds stage1, and one bridge is asked for; give {tmp_path}/stage1$"):
        start(tmp_path)

"""Weights of others that lack an LM head, a temperature or [DEC]: filled where it is said from what, else refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from bridges import tiny_bridge
from fakes import bert_tokenizer, tiny_bert_folder
from isthmus.build.going_on import read_start, stage1_from
from isthmus.build.workshop import Tower
from isthmus.checkpoints.native import write_bridge
from isthmus.config.model import BridgeConfig
from isthmus.config.run import InitConfig
from isthmus.errors import CheckpointError, ConfigError
from isthmus.qformer.tokenizer import QFormerTokenizer
from isthmus.records import BridgeFile

ENCODER = Tower(nn.Identity(), "folder:clip", "c" * 32, "")
WORDS = len(bert_tokenizer())
HEAD = "qformer.text.head"


def saved(folder, bert, **sizes):
    bridge = tiny_bridge(**{"width": 16, "positions": 64, "vocabulary": WORDS + 1, **sizes}).float()
    known = {"encoder": {"address": ENCODER.address, "fingerprint": ENCODER.fingerprint}}
    tokenizer = QFormerTokenizer(bert)
    file = BridgeFile(bridge.sizes, dict(bridge.state_dict()), {"stage": 1, "towers": known})
    write_bridge(file, folder, save_tokenizer=tokenizer.save)
    return folder


def going_on(folder, **init):
    return stage1_from(read_start(InitConfig.model_validate({"from": str(folder), **init}), ENCODER), CONFIG, seed=3)


CONFIG = BridgeConfig()


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A BERT with an MLM head."""
    folder = tiny_bert_folder(tmp_path_factory.mktemp("bert"))
    config = BertConfig.from_pretrained(folder)
    torch.manual_seed(5)
    model = BertForMaskedLM(config)
    model.cls.predictions.bias.data.normal_()
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def bare(tmp_path, bert):
    return saved(tmp_path / "bare", bert, lm_head=False, temperature=False)


def test_a_part_that_is_absent_and_not_filled_is_refused_by_name(bare):
    with pytest.raises(CheckpointError, match=r"has no LM head, which stage 1 trains; .* init\.lm_head=random"):
        going_on(bare, temperature=0.07)
    with pytest.raises(CheckpointError, match=r"has no temperature, .* init\.temperature=0\.07"):
        going_on(bare, lm_head="random")


def test_a_head_from_a_bert_and_a_temperature_are_filled_and_told(bare, bert):
    built = going_on(bare, lm_head=f"folder:{bert}", temperature=0.05)
    state, source = built.bridge.state_dict(), load_file(bert / "model.safetensors")
    assert torch.equal(state[f"{HEAD}.dense.weight"], source["cls.predictions.transform.dense.weight"])
    assert torch.equal(state[f"{HEAD}.norm.bias"], source["cls.predictions.transform.LayerNorm.bias"])
    assert torch.equal(state[f"{HEAD}.bias"][:-1], source["cls.predictions.bias"])
    assert state[f"{HEAD}.bias"][-1] == 0  # [DEC]'s
    assert built.bridge.need_heads().known_temperature == pytest.approx(0.05)
    told = [line for line in built.report if line.strip().startswith("filled")]
    assert any("heads.temperature: 0.05, from init.temperature" in line for line in told)
    assert any(f"{HEAD}.dense.weight: folder:{bert}, from init.lm_head" in line for line in told)
    assert {f"{HEAD}.dense.weight", f"{HEAD}.bias"} <= built.fresh
    assert "heads.temperature" not in built.fresh


def test_a_random_head_is_drawn_by_the_seed(bare):
    one, again = (going_on(bare, lm_head="random", temperature=0.07).bridge.state_dict() for _ in range(2))
    drawn = one[f"{HEAD}.dense.weight"]
    assert torch.equal(drawn, again[f"{HEAD}.dense.weight"])
    assert 0.01 < drawn.std() < 0.03 and not one[f"{HEAD}.bias"].any()


def test_words_without_dec_get_a_row_for_it(tmp_path, bert):
    folder = saved(tmp_path / "bare", bert, lm_head=False, temperature=False, vocabulary=WORDS)
    built = going_on(folder, lm_head=f"folder:{bert}", temperature=0.07)
    words = built.bridge.qformer.text.words.weight
    assert len(words) == WORDS + 1 == built.bridge.sizes.vocabulary
    assert torch.equal(words[-1], words[built.tokenizer.cls])
    assert any("a row for [DEC]" in line for line in built.report)
    assert "qformer.text.words.weight" not in built.fresh


def test_what_is_there_is_not_filled(tmp_path, bert):
    whole = saved(tmp_path / "whole", bert)
    for key, value in (("lm_head", "random"), ("temperature", 0.07)):
        with pytest.raises(ConfigError, match=rf"`init\.{key}` fills what a bridge lacks, and .* has its"):
            going_on(whole, **{key: value})


def test_a_bert_without_the_head_is_refused(bare, bert, tmp_path):
    plain = tiny_bert_folder(tmp_path / "plain")
    with pytest.raises(CheckpointError, match=r"lacks the tensor cls\.predictions.*give a BERT with its MLM head"):
        going_on(bare, lm_head=f"folder:{plain}", temperature=0.07)
    wide = load_file(bert / "model.safetensors")
    wide["cls.predictions.transform.dense.weight"] = torch.zeros(4, 4)
    (tmp_path / "wide").mkdir()
    for file in bert.iterdir():
        (tmp_path / "wide" / file.name).write_bytes(file.read_bytes())
    save_file(wide, tmp_path / "wide/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"dense\.weight is \(4, 4\), the Q-Former needs \(16, 16\)"):
        going_on(bare, lm_head=f"folder:{tmp_path / 'wide'}", temperature=0.07)

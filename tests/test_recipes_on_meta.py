"""The paper's recipes, built by the very code that trains them, on `meta`: no weights, no download, all the shapes.

What a machine without the Hub cannot have is put in: the networks of the towers' and BERT's own configurations, without
their weights, and tokenizers of the same size.
"""

from pathlib import Path

import pytest
import timm
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from transformers import BertConfig, BertModel, OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from captioned import Captioned
from fakes import BERT_SPECIALS, byte_tokenizer
from isthmus.build.going_on import Start
from isthmus.build.precision import Compute
from isthmus.build.stages import build_stage1, build_stage2
from isthmus.build.towers import build_encoder
from isthmus.build.workshop import Tower, Workshop
from isthmus.config.stages import load_stages
from isthmus.qformer.initialize import Bert
from isthmus.records import BridgeFile

RECIPES = Path(__file__).parent.parent / "recipes"
META = Compute(torch.device("meta"), torch.float32)
OPT = OPTConfig(  # facebook/opt-2.7b
    hidden_size=2560, word_embed_proj_dim=2560, ffn_dim=10_240, num_hidden_layers=32, num_attention_heads=32
)


def bert_folder(path):
    """The tokenizer of a BERT with as many words as its configuration says."""
    words = [*BERT_SPECIALS, *(f"w{number}" for number in range(BertConfig().vocab_size - len(BERT_SPECIALS)))]
    tokenizer = Tokenizer(WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    specials = dict(zip(names, BERT_SPECIALS, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials).save_pretrained(path)
    return path


def known(model):
    """A tower that is not hashed: there are no weights."""
    return Tower(model, model.address, "f" * 32, "", getattr(model, "hidden_layer", None))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """What the recipes name on the Hub, without weights; returns the names that were asked for."""
    asked, folder, create = [], bert_folder(tmp_path / "bert"), timm.create_model

    def network(name, *, pretrained):
        asked.append((name, pretrained))
        return create(name)

    def bert(name, *, revision):
        asked.append((name, revision))
        return Bert(BertConfig().to_dict(), BertModel(BertConfig()).state_dict(), folder)

    def language(name, **_):
        asked.append(name)
        return OPTForCausalLM(OPT), byte_tokenizer()

    monkeypatch.setattr("isthmus.vision.timm_encoder.timm.create_model", network)
    monkeypatch.setattr("isthmus.build.bridge.read_bert", bert)
    monkeypatch.setattr("isthmus.build.towers.is_encoder_decoder", lambda *_, **__: False)
    monkeypatch.setattr("isthmus.build.towers.load_language_model", language)
    monkeypatch.setattr("isthmus.build.workshop.make_tower", known)
    monkeypatch.setattr("isthmus.build.stages.permutation", lambda length, _: torch.arange(length, device="cpu"))
    return asked


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_both_stages_of_the_paper_are_built_and_learn_what_the_paper_says(hub, monkeypatch):
    (one,), (two,) = (load_stages(RECIPES / f"blip2-stage{stage}.yaml").runs for stage in (1, 2))
    with torch.device("meta"):
        encoder = build_encoder(one.encoder, META)
        workshop = Workshop(META, encoder, known(encoder))
        first, built = build_stage1(one, workshop)
        provenance = {"stage": 1, "towers": {"encoder": vars(workshop.tower)}}
        file = BridgeFile(first.bridge.sizes, dict(first.bridge.state_dict()), provenance)
        start = Start(Path(built.tokenizer.inner.name_or_path), file, two.init)
        monkeypatch.setattr("isthmus.build.stages.read_start", lambda *_: start)
        second, gone_on, llm = build_stage2(two, Captioned([("a cat",)], ["cat"]), workshop)
    assert hub == [(one.encoder.name, True), ("google-bert/bert-base-uncased", None), "facebook/opt-2.7b"]
    assert encoder.encode(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 257, 1408)
    assert (encoder.preprocessing.size, encoder.hidden_layer, len(encoder.model.blocks)) == (224, -2, 40)
    assert all(tensor.is_meta for tensor in (*first.parameters(), *second.parameters()))
    learns = [[parameter for parameter in stage.parameters() if parameter.requires_grad] for stage in (first, second)]
    assert [sum(map(torch.numel, parameters)) for parameters in learns] == [186_705_470, 107_133_696]
    assert (count(first.bridge), count(second.bridge)) == (186_705_470, 107_133_696)
    assert gone_on.fresh == {"projection.weight", "projection.bias"}
    assert (llm.module.width, count(llm.module)) == (2560, 2_651_596_800)

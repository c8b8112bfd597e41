"""Stage 2 with a tiny random Llama: only the bridge learns, both towers stay what they are."""

import pytest
import torch
from torch import nn

from bridges import DEC, filled, rows_of, tiny_batch, tiny_bridge
from fakes import tiny_clip_folder, tiny_llama_folder, tiny_t5_folder
from isthmus.fingerprint import module_fingerprint
from isthmus.language.decoder_only import DecoderOnlyLLM
from isthmus.language.encoder_decoder import EncoderDecoderLLM
from isthmus.language.load import load_language_model
from isthmus.language.prompts import Prompt
from isthmus.models.stage1 import Stage1
from isthmus.models.stage2 import Stage2
from isthmus.records import Batch, Step
from isthmus.vision.transformers_encoder import TransformersEncoder

STEP = Step(0, 0, 0.5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("towers")
    return tiny_llama_folder(place / "llama"), tiny_clip_folder(place / "clip")


@pytest.fixture
def llm(folders):
    model, tokenizer = load_language_model(folders[0], dtype=torch.float64, attn_implementation="eager")
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    return DecoderOnlyLLM(model, tokenizer, Prompt(before="see:"), address="folder:llama")


@pytest.fixture
def encoder(folders):
    return TransformersEncoder(folders[1], address="folder:clip").double()


def stage2(llm):
    return Stage2(tiny_bridge(text=False, shared_width=None, language_width=llm.width), llm)


def patches_batch(encoder, stage):
    """A batch whose patches the encoder made; the bridge's own patch width is 6 of its 16."""
    batch = tiny_batch()
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return type(batch)(encoder(pixels)[..., :6], batch.captions, batch.text, batch.identity, batch.index)


def test_only_the_bridge_gets_gradients(llm, encoder):
    stage = stage2(llm)
    stage(patches_batch(encoder, stage), STEP)["lm"].mean().backward()
    trained = {name for name, parameter in stage.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in stage.named_parameters() if name.startswith("bridge.")}
    assert all(p.grad is None and not p.requires_grad for tower in (llm, encoder) for p in tower.parameters())


@pytest.mark.parametrize("number", [1, 2])
def test_the_towers_are_unchanged_after_optimizer_steps_over_everything(llm, encoder, number):
    stage = Stage1(tiny_bridge(), dec=DEC) if number == 1 else stage2(llm)
    towers = nn.ModuleDict({"llm": llm, "encoder": encoder})
    whole = nn.ModuleDict({"stage": stage, "towers": towers}).train()
    before, bridge = module_fingerprint(towers), module_fingerprint(stage.bridge)
    optimizer = torch.optim.AdamW(whole.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        sum(term.mean() for _, term in stage(patches_batch(encoder, stage), STEP)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert module_fingerprint(towers) == before
    assert module_fingerprint(stage.bridge) != bridge


def test_dropout_of_the_towers_is_off_in_training(llm, encoder):
    stage = stage2(llm)
    nn.ModuleDict({"stage": stage, "encoder": encoder}).train()
    assert stage.bridge.training
    assert not any(module.training for tower in (llm, encoder) for module in tower.modules())
    first, second = (stage(patches_batch(encoder, stage), STEP)["lm"].sum for _ in range(2))
    assert torch.equal(first, second)
    noisy = Stage2(tiny_bridge(dropout=0.5, text=False, shared_width=None, language_width=llm.width), llm).train()
    batch = tiny_batch()
    torch.manual_seed(0)
    assert not torch.equal(noisy(batch, STEP)["lm"].sum, noisy(batch, STEP)["lm"].sum)


def test_dropout_of_the_language_model_is_the_stage_s_training_mode_where_it_is_asked_for(llm):
    stage, batch = stage2(llm), tiny_batch()
    expected = stage.eval()(batch, STEP)["lm"].sum
    stage.llm.dropout = True
    first, second = (stage.train()(batch, STEP)["lm"].sum for _ in range(2))
    assert len({first.item(), second.item(), expected.item()}) == 3
    assert torch.equal(stage.eval()(batch, STEP)["lm"].sum, expected)


def test_the_loss_is_the_language_models_own_on_the_captions(llm):
    stage, batch = stage2(llm), tiny_batch()
    term = stage(batch, STEP)["lm"]
    prompts = stage.bridge.soft_prompt(batch.vision)
    rows = [llm.loss(prompts[i : i + 1], llm.tokenize([caption])) for i, caption in enumerate(batch.captions)]
    assert term.sum.item() == pytest.approx(sum(row.sum for row in rows).item(), rel=1e-5)
    assert stage.count(batch, STEP)["lm"] == term.weight == sum(row.weight for row in rows)


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    model, tokenizer = load_language_model(tiny_t5_folder(tmp_path_factory.mktemp("t5")), dtype=torch.float64)
    return EncoderDecoderLLM(model, tokenizer, Prompt(after="a photo of "), address="folder:t5")


def test_an_encoder_decoder_splits_captions_by_seed_epoch_and_index(t5):
    stage, batch = stage2(t5), tiny_batch(lengths=(4,) * 12)
    step = Step(3, 1, 0.5)
    weight = stage.count(batch, step)["lm"]
    assert weight == stage(batch, step)["lm"].weight
    given = stage._target(batch, step).given.mask.sum(1)
    for other in (Step(3, 2, 0.5), Step(4, 1, 0.5)):
        assert stage._target(batch, other).given.mask.sum(1).tolist() != given.tolist()
    assert stage._target(batch, Step(3, 1, 0.9)).given.mask.sum(1).tolist() == given.tolist()
    turned = Batch(
        batch.vision.flip(0),
        batch.captions[::-1],
        batch.text.select(torch.arange(12).flip(0)),
        batch.identity,
        batch.index.flip(0),
    )
    assert stage.count(turned, step)["lm"] == weight
    assert stage(turned, step)["lm"].sum.item() == pytest.approx(stage(batch, step)["lm"].sum.item(), rel=1e-9)


def test_only_the_bridge_gets_gradients_through_an_encoder_decoder(t5):
    stage, before = stage2(t5).train(), module_fingerprint(t5)
    stage(tiny_batch(), STEP)["lm"].mean().backward()
    assert all(parameter.grad is not None for parameter in stage.bridge.parameters())
    assert all(parameter.grad is None for parameter in t5.parameters())
    assert not any(module.training for module in t5.modules()) and module_fingerprint(t5) == before


@pytest.mark.parametrize("kind", ["llm", "t5"])
def test_rows_that_do_not_count_change_no_loss_no_gradient_and_no_weight(kind, request):
    stage, batch = stage2(request.getfixturevalue(kind)), tiny_batch(captions=[1, 22, 333, 4444])
    few, more = rows_of(batch, slice(0, 2)), filled(batch, range(2), 4)
    term, found = stage(few, STEP)["lm"], stage(more, STEP)["lm"]
    assert found.sum.item() == pytest.approx(term.sum.item(), rel=1e-9)
    assert found.weight == term.weight == stage.count(more, STEP)["lm"] == stage.count(few, STEP)["lm"]
    expected = torch.autograd.grad(term.mean(), list(stage.bridge.parameters()))
    for one, other in zip(expected, torch.autograd.grad(found.mean(), list(stage.bridge.parameters())), strict=True):
        assert torch.allclose(other, one, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", ["llm", "t5"])
def test_where_no_row_counts_there_is_no_loss_and_every_gradient_is_there_and_zero(kind, request):
    stage, batch = stage2(request.getfixturevalue(kind)), filled(tiny_batch(), range(0), 2)
    term = stage(batch, STEP)["lm"]
    assert (term.sum.item(), term.weight.item(), stage.count(batch, STEP)["lm"].item()) == (0, 0, 0)
    term.mean().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in stage.bridge.parameters())

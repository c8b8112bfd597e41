"""The original's switch: the language model's own dropout acts in training where it is asked for, and only there."""

import pytest
import torch

from decoders import PROMPT, llm, soft_prompt
from fakes import tiny_t5_folder
from isthmus.fingerprint import module_fingerprint
from isthmus.language.encoder_decoder import EncoderDecoderLLM
from isthmus.language.llm import Decoding
from isthmus.language.load import load_language_model
from isthmus.language.prompts import Prompt

CAPTIONS = ["a dog", "red", "two big cats"]
KINDS = ["opt", "gpt2", "t5"]


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    return tiny_t5_folder(tmp_path_factory.mktemp("t5"))


@pytest.fixture
def make(t5_folder):
    """A tower of a kind whose own configuration has dropout, with the switch on or off."""

    def make(kind, *, dropout):
        if kind == "t5":
            model, tokenizer = load_language_model(t5_folder, dtype=torch.float64)
            tower = EncoderDecoderLLM(model, tokenizer, Prompt(after="a photo of "), address="folder:t5")
        else:
            tower = llm(kind)
        tower.dropout = dropout
        return tower

    return make


def sums(tower, soft):
    return tower.row_losses(soft, tower.tokenize(CAPTIONS))[0]


@pytest.mark.parametrize("kind", KINDS)
def test_two_forwards_in_training_differ_with_the_switch_and_not_without(make, kind):
    on, off = make(kind, dropout=True).train(), make(kind, dropout=False).train()
    soft = soft_prompt(on)
    assert (sums(on, soft) != sums(on, soft)).all(), "in every row"
    assert torch.equal(sums(off, soft), sums(off, soft))
    assert on.training and not any(module.training for module in off.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_the_draws_are_torch_s_and_can_be_repeated(make, kind):
    tower = make(kind, dropout=True).train()
    soft, found = soft_prompt(tower), []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(sums(tower, soft))
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_dropped_in_evaluation_and_in_writing(make, kind):
    on, off = make(kind, dropout=True), make(kind, dropout=False)
    soft, how = soft_prompt(on), Decoding(max_new_tokens=8)
    expected, written = sums(off, soft), off.generate(soft, how)
    on.train()
    sums(on, soft)
    assert on.generate(soft, how) == written, "in the midst of training"
    assert on.model.training
    on.eval()
    assert torch.equal(sums(on, soft), expected), "and nothing that was dropped is kept"
    assert on.generate(soft, how) == written and not on.model.training


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_stay_frozen(make, kind):
    tower = make(kind, dropout=True).train()
    before, soft = module_fingerprint(tower), soft_prompt(tower)
    sums(tower, soft).sum().backward()
    assert soft.grad.abs().sum() > 0
    assert all(not p.requires_grad and p.grad is None for p in tower.parameters())
    assert module_fingerprint(tower) == before


@pytest.mark.parametrize("prompt", [PROMPT, Prompt(before="x", bos="after_soft_prompt"), Prompt()], ids=str)
def test_the_whole_sequence_is_the_one_with_a_cached_beginning(prompt):
    """Llama drops nothing: what differs in training is only that nothing is read from the cache."""
    tower = llm("llama", prompt)
    soft = soft_prompt(tower)
    cached = sums(tower, soft)
    (wanted,) = torch.autograd.grad(cached.sum(), soft)
    tower.dropout = True
    whole = sums(tower.train(), soft)
    (found,) = torch.autograd.grad(whole.sum(), soft)
    assert torch.allclose(whole, cached, rtol=1e-12)
    assert torch.allclose(found, wanted, atol=1e-12 * wanted.abs().max().item())


def test_what_stands_before_the_soft_prompt_is_dropped_too():
    """The model reads all of it, where otherwise it reads a cached beginning, the same in every row and step."""
    tower = llm("opt", Prompt(before="see: cat\nsee:"))
    tower.dropout = True
    body, seen = tower.model.base_model, []
    forward = body.forward
    body.forward = lambda **given: seen.append(given) or forward(**given)
    sums(tower.train(), soft_prompt(tower))
    assert seen[0]["past_key_values"] is None
    assert seen[0]["inputs_embeds"].shape[1] == seen[0]["attention_mask"].shape[1]

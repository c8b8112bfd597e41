"""Encoder-decoders: the plain labels' loss, the prefix split, generation, frozenness, and what is refused."""

from collections import Counter

import pytest
import torch

from decoders import soft_prompt, spelled
from encoder_decoders import MODELS, PROMPT, llm
from fakes import byte_tokenizer
from isthmus.errors import ConfigError, TowerError
from isthmus.fingerprint import module_fingerprint
from isthmus.language.encoder_decoder import EncoderDecoderLLM
from isthmus.language.llm import Decoding
from isthmus.language.prompts import Prompt

CAPTIONS = ["a dog", "red", "two big cats", "x", ""]
DRAWS = [0.01, 0.99, 0.5, 0.7, 0.7]
WAYS = {
    "greedy": Decoding(max_new_tokens=6),
    "beams": Decoding(max_new_tokens=6, num_beams=3, length_penalty=2.0),
    "sampling": Decoding(max_new_tokens=6, temperature=0.2, seed=5),
    "penalty": Decoding(max_new_tokens=6, min_new_tokens=4, repetition_penalty=3.0),
}


def plain_row_loss(tower, soft, given, asked, *, bos):
    """One row, unpadded, by transformers' own `labels`: the summed loss."""
    first, second = ([1], []) if tower.prompt.bos == "first" else ([], [1])
    head = (first if bos else []) + spelled(tower.prompt.before)
    tail = (second if bos else []) + spelled(tower.prompt.after + given) + [2]
    embed = tower.model.get_input_embeddings()
    parts = [embed(torch.tensor([ids], dtype=torch.long)) for ids in (head, tail)]
    labels = torch.tensor([[*spelled(asked), 2]])
    inputs = torch.cat([parts[0], soft[None], parts[1]], 1)
    return tower.model(inputs_embeds=inputs, labels=labels).loss * labels.shape[1]


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("split", [True, False], ids=["prefix", "whole"])
@pytest.mark.parametrize(
    ("prompt", "bos"), [(PROMPT, False), (Prompt(), False), (Prompt(before="x", bos="after_soft_prompt"), True)]
)
def test_loss_and_gradient_are_the_plain_ones_of_single_rows(family, split, prompt, bos):
    tower = llm(family, prompt, bos=bos)
    soft = soft_prompt(tower, 5)
    sums, weights = tower.row_losses(soft, tower.tokenize(CAPTIONS, DRAWS if split else None))
    cuts = [1, 1, 4, 0, 0] if split else [0] * 5
    rows = [
        plain_row_loss(tower, soft[i], caption[:cut], caption[cut:], bos=bos)
        for i, (caption, cut) in enumerate(zip(CAPTIONS, cuts, strict=True))
    ]
    assert weights.tolist() == [len(caption) - cut + 1 for caption, cut in zip(CAPTIONS, cuts, strict=True)]
    assert torch.allclose(sums, torch.stack(rows), rtol=1e-12)
    (found,) = torch.autograd.grad(sums.sum(), soft)
    (wanted,) = torch.autograd.grad(sum(rows), soft)
    assert torch.allclose(found, wanted, atol=1e-12 * wanted.abs().max().item())
    assert wanted.abs().amax(dim=(1, 2)).min() > 0


def test_the_split_is_even_from_the_first_token_to_the_middle():
    tower = llm(prompt=Prompt())
    draws = ((torch.arange(900) + 0.5) / 900).tolist()
    target = tower.tokenize(["abcdefg"] * 900, draws)
    given = target.given.mask.sum(1) - 1  # the end of sequence
    assert Counter(given.tolist()) == {1: 300, 2: 300, 3: 300}
    assert (given + target.mask.sum(1) - 1).unique().tolist() == [7]
    assert target.given.ids[450, :3].tolist() == [*spelled("ab"), 2]
    assert target.ids[450, :6].tolist() == [*spelled("cdefg"), 2]


def test_without_draws_or_prefix_lm_the_whole_caption_is_asked_for():
    for tower, draws in ((llm(), None), (llm(prefix_lm=False), DRAWS)):
        target = tower.tokenize(CAPTIONS, draws)
        assert target.given is None
        assert target.ids[0, :6].tolist() == [*spelled("a dog"), 2]
    assert llm().splits_captions and not llm(prefix_lm=False).splits_captions


def test_a_caption_is_cut_and_closed():
    target = llm(max_tokens=4).tokenize(["abcdefgh"])
    assert target.ids.tolist() == [[*spelled("abcd"), 2]]


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("way", WAYS)
def test_a_batch_with_prompts_of_different_lengths_writes_what_single_rows_do(family, way):
    tower, prompts = llm(family).float(), [" is", " holds a very long", "", " and"]
    soft = soft_prompt(tower, 4).float()
    together = tower.generate(soft, WAYS[way], prompts=prompts)
    alone = [tower.generate(row[None], WAYS[way], prompts=[text])[0] for row, text in zip(soft, prompts, strict=True)]
    assert together == alone
    assert len(set(together)) > 1
    assert tower.generate(soft[:0], WAYS[way]) == []


@pytest.mark.parametrize("family", MODELS)
def test_generation_follows_the_training_sequence(family):
    """The first token written is the one that costs least as the first label."""
    tower = llm(family)
    soft = soft_prompt(tower)
    costs = []
    for token in range(tower.vocabulary()):
        target = tower.tokenize([""] * 3)
        sums, _ = tower.row_losses(soft, type(target)(torch.full((3, 1), token), target.mask))
        costs.append(sums)
    best = torch.stack(costs).argmin(0).tolist()
    assert tower.generate(soft, Decoding(max_new_tokens=1)) == [tower._text([token], "") for token in best]


def test_the_tower_is_frozen():
    tower = llm()
    before = module_fingerprint(tower)
    soft, target = soft_prompt(tower, 5), tower.tokenize(CAPTIONS, DRAWS)
    first = tower.train().loss(soft, target).sum
    assert torch.equal(first, tower.loss(soft, target).sum)
    first.backward()
    assert soft.grad.abs().sum() > 0
    assert all(not p.requires_grad and p.grad is None for p in tower.parameters())
    assert module_fingerprint(tower) == before


def test_the_loss_of_a_bf16_model_is_in_fp32():
    tower = llm().bfloat16()
    sums, weights = tower.row_losses(soft_prompt(tower, 5), tower.tokenize(CAPTIONS, DRAWS))
    assert sums.dtype == weights.dtype == torch.float32


def test_what_cannot_be_is_one_sentence():
    for prompt, key in ((Prompt(end="\n"), "end"), (Prompt(chat=True), "chat")):
        with pytest.raises(ConfigError, match=f"is an encoder-decoder, .* leave out the prompt's `{key}`"):
            llm(prompt=prompt)
    tokenizer = byte_tokenizer(bos=False)
    tokenizer.eos_token = None
    with pytest.raises(TowerError, match="the tokenizer of folder:x has no end of sequence"):
        EncoderDecoderLLM(MODELS["t5"](), tokenizer, Prompt(), address="folder:x")
    model = MODELS["t5"]()
    model.config.decoder_start_token_id = None
    with pytest.raises(TowerError, match="folder:x does not say how its decoder starts"):
        EncoderDecoderLLM(model, byte_tokenizer(bos=False), Prompt(), address="folder:x")
    tower = llm("bart")
    with pytest.raises(ConfigError, match="folder:bart has 1024 positions"):
        tower.generate(soft_prompt(tower, 1), Decoding(), prompts=["c" * 5000])

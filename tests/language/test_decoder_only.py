"""Decoder-only models: the cached prefix against the plain whole sequence, labels, generation, frozenness."""

import re

import pytest
import torch
from torch import nn

from decoders import MODELS, PROMPT, llm, soft_prompt, spelled
from fakes import byte_tokenizer
from isthmus.errors import ConfigError, TowerError
from isthmus.fingerprint import module_fingerprint
from isthmus.language.decoder_only import DecoderOnlyLLM
from isthmus.language.llm import Decoding, Target
from isthmus.language.prompts import Prompt

CAPTIONS = ["a dog", "red", "two big cats"]


def plain_row_loss(tower, soft, caption, prompt, *, bos=True):
    """The whole sequence of one row, unpadded and uncached: mean over labels, each read from the logit before it."""
    mark = [1 if prompt.bos_token is None else 2]
    first, second = (mark, []) if prompt.bos == "first" else ([], mark)
    before = (first if bos else []) + spelled(prompt.before)
    after = (second if bos else []) + spelled(prompt.after)
    end = "\n" if prompt.end is None else prompt.end
    label = spelled(" " + caption) + (spelled(end) if end else [2])
    embed = tower.model.get_input_embeddings()
    parts = [embed(torch.tensor([ids], dtype=torch.long)) for ids in (before, after, label)]
    sequence = torch.cat([parts[0], soft[None], parts[1], parts[2]], 1)
    labels = torch.tensor([[-100] * (sequence.shape[1] - len(label)) + label])
    output = tower.model(inputs_embeds=sequence, labels=labels)
    mean = nn.functional.cross_entropy(output.logits[0, -len(label) - 1 : -1], labels[0, -len(label) :])
    assert torch.allclose(mean, output.loss.double(), rtol=1e-6)  # transformers' own is in fp32
    return mean, len(label)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize(
    "prompt",
    [
        PROMPT,
        Prompt(),
        Prompt(before="see:", bos="after_soft_prompt", end=""),
        Prompt(before="x", end=";;"),
        Prompt(before="x", bos_token="</s>"),
        Prompt(after=" is", bos="after_soft_prompt", bos_token="</s>"),
    ],
    ids=["before-after", "bos-only", "bos-after", "two-token-end", "other-bos", "other-bos-after"],
)
def test_loss_and_gradient_are_the_plain_whole_sequences(family, prompt):
    tower = llm(family, prompt)
    soft = soft_prompt(tower)
    sums, weights = tower.row_losses(soft, tower.tokenize(CAPTIONS))
    rows = [plain_row_loss(tower, soft[i], caption, prompt) for i, caption in enumerate(CAPTIONS)]
    expected = torch.stack([mean * count for mean, count in rows])
    assert weights.tolist() == [count for _, count in rows]
    assert torch.allclose(sums, expected, rtol=1e-12)
    (found,) = torch.autograd.grad(sums.sum(), soft)
    (wanted,) = torch.autograd.grad(expected.sum(), soft)
    assert torch.allclose(found, wanted, atol=1e-12 * wanted.abs().max().item())


def test_without_bos_and_text_there_is_no_prefix():
    prompt = Prompt(end="\n")
    tower = llm(prompt=prompt, bos=False)
    soft = soft_prompt(tower, 1)
    mean, count = plain_row_loss(tower, soft[0], "red", prompt, bos=False)
    term = tower.loss(soft, tower.tokenize(["red"]))
    assert torch.allclose(term.mean(), mean, rtol=1e-12)
    assert term.weight == count == 5


def test_a_bos_that_the_prompt_names_needs_none_in_the_tokenizer_and_is_no_word_that_it_lacks():
    prompt = Prompt(bos="after_soft_prompt", bos_token="</s>")
    for bos in (True, False):
        tower = llm(prompt=prompt, bos=bos)
        soft = soft_prompt(tower, 1)
        mean, _ = plain_row_loss(tower, soft[0], "red", prompt)
        assert torch.allclose(tower.loss(soft, tower.tokenize(["red"])).mean(), mean, rtol=1e-12)
        assert tower.generation_marks()["bos_token_id"] == 2
    for absent in ("[BOS]", ""):
        with pytest.raises(
            ConfigError, match=rf"of folder:llama has no token '{re.escape(absent)}', which the prompt's"
        ):
            llm(prompt=Prompt(bos_token=absent))


def test_the_cached_prefix_is_never_written_and_survives_inference_mode():
    tower = llm()
    soft, target = soft_prompt(tower), tower.tokenize(CAPTIONS)
    with torch.inference_mode():
        first = tower.loss(soft, target).sum.item()
    (prefix,) = tower._prefixes.values()
    length = prefix.get_seq_length()
    term = tower.loss(soft, target)
    term.sum.backward()
    assert term.sum.item() == pytest.approx(first)
    assert prefix.get_seq_length() == length == len(tower._before)
    assert len(tower._prefixes) == 1
    tower.float().loss(soft, target)
    assert len(tower._prefixes) == 2


def test_rows_without_labels_weigh_nothing():
    tower = llm()
    soft = soft_prompt(tower, 2)
    target = tower.tokenize(["a", "b"])
    empty = Target(target.ids, torch.zeros_like(target.mask))
    sums, weights = tower.row_losses(soft, empty)
    sums.sum().backward()
    assert sums.tolist() == weights.tolist() == [0.0, 0.0]
    assert not soft.grad.any()


def test_labels_are_prefix_caption_end_mark():
    text = llm(max_tokens=4).tokenize(["a", "abcdef", ""])
    assert text.mask.sum(1).tolist() == [3, 5, 2]
    assert text.ids[1].tolist() == spelled(" abc\n")
    assert text.ids[0].tolist() == [*spelled(" a\n"), 0, 0]


def test_the_tower_is_frozen():
    tower = llm("opt")
    before = module_fingerprint(tower)
    projection = nn.Linear(4, tower.width, dtype=torch.float64)
    whole = nn.ModuleDict({"tower": tower, "projection": projection}).train()
    optimizer = torch.optim.SGD(whole.parameters(), lr=1.0)
    target, rows = tower.tokenize(CAPTIONS), torch.randn(3, 2, 4, dtype=torch.float64)
    first = tower.loss(projection(rows), target).sum
    assert torch.equal(first, tower.loss(projection(rows), target).sum)
    first.backward()
    optimizer.step()
    assert all(not p.requires_grad and p.grad is None for p in tower.parameters())
    assert module_fingerprint(tower) == before
    assert projection.weight.grad.abs().sum() > 0


def test_autocast_does_not_reach_it():
    tower = llm().float()
    soft, target = soft_prompt(tower), tower.tokenize(CAPTIONS)
    outside = tower.loss(soft, target).sum
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(tower.loss(soft, target).sum, outside)


NEVER = spelled("never")


def scripted(monkeypatch, tower, texts):
    """Make greedy search write `texts[row]`, whatever the weights: only the head's choice is replaced.

    A row leaves the batch with the token before its "never"."""
    tower._prefix(1)  # computed before the script begins
    forward, written = tower.model.forward, [0]
    ends = [len(text) - len(NEVER) if text[-len(NEVER) :] == NEVER else len(text) for text in texts]

    def spell(*arguments, **options):
        output = forward(*arguments, **options)
        output.logits = torch.full_like(output.logits[:, -1:], -1.0)
        for row, text in enumerate(text for text, end in zip(texts, ends, strict=True) if written[0] < end):
            output.logits[row, 0, text[written[0]]] = 1.0
        written[0] += 1
        return output

    monkeypatch.setattr(tower.model, "forward", spell)
    return tower


@pytest.mark.parametrize("end", ["\n", ";;", ""])
def test_generation_stops_at_the_end_mark_or_the_end_of_sequence(monkeypatch, end):
    mark = spelled(end) if end else [2]
    tower = llm(prompt=Prompt(before="see:", end=end))
    texts = [[*spelled(" red cat"), *mark, *NEVER], [*spelled(" dog"), 2, *NEVER]]
    found = scripted(monkeypatch, tower, texts).generate(soft_prompt(tower, 2), Decoding(max_new_tokens=12))
    assert found == ["red cat", "dog"]


def test_generation_stops_at_the_limit(monkeypatch):
    tower = llm()
    scripted(monkeypatch, tower, [spelled(" a long text")])
    assert tower.generate(soft_prompt(tower, 1), Decoding(max_new_tokens=4)) == ["a l"]


def test_generation_follows_the_training_sequence():
    """The first token written is the arg-max of the logits that the loss reads first."""
    tower = llm()
    soft = soft_prompt(tower)
    costs = [
        tower.row_losses(soft, Target(torch.full((3, 1), token), torch.ones(3, 1, dtype=torch.bool)))[0]
        for token in range(tower.vocabulary())
    ]
    best = torch.stack(costs).argmin(0).tolist()
    assert tower.generate(soft, Decoding(max_new_tokens=1)) == [tower._text([token], "\n") for token in best]


def test_width_and_scale_are_the_embedding_modules():
    tower = llm("opt")
    weight = tower.model.get_input_embeddings().weight
    assert tower.width == 8
    assert tower.embedding_scale() == pytest.approx(weight.float().std().item(), rel=1e-6)


def test_an_end_mark_is_needed():
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(TowerError, match="give the prompt an end mark"):
        DecoderOnlyLLM(MODELS["llama"](), tokenizer, Prompt(end=""), address="folder:x")

"""How a decoder-only model writes: batches against single rows, against no cache, and what `Decoding` does."""

import json
from dataclasses import replace

import pytest
import torch

from decoders import MODELS, PROMPT, llm, soft_prompt, spelled
from isthmus.errors import ConfigError
from isthmus.language.decoding import logits_processors
from isthmus.language.llm import Decoding
from isthmus.language.prompts import Prompt

PROMPTS = [" is", " holds a very long", "", " and"]
WAYS = {
    "greedy": Decoding(max_new_tokens=6),
    "beams": Decoding(max_new_tokens=6, num_beams=3, length_penalty=0.5),
    "sampling": Decoding(max_new_tokens=6, temperature=0.8, top_p=0.9, seed=5),
    "penalty": Decoding(max_new_tokens=6, min_new_tokens=4, repetition_penalty=1.7),
}


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("prompt", [PROMPT, Prompt(bos="after_soft_prompt")], ids=["cached", "nothing-before"])
def test_a_batch_with_prompts_of_different_lengths_writes_what_single_rows_do(family, way, prompt):
    tower = llm(family, prompt).float()
    soft = soft_prompt(tower, 4).float()
    together = tower.generate(soft, WAYS[way], prompts=PROMPTS)
    alone = [tower.generate(row[None], WAYS[way], prompts=[text])[0] for row, text in zip(soft, PROMPTS, strict=True)]
    assert together == alone
    assert len(set(together)) > 1
    assert tower.generate(soft[:0], WAYS[way], prompts=[]) == []


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("way", ["greedy", "beams"])
def test_the_cached_prefix_writes_what_the_whole_sequence_does(family, way):
    tower, decoding = llm(family), WAYS[way]
    soft = soft_prompt(tower).detach()
    before, after = (tower.embed(torch.tensor([ids])).expand(3, -1, -1) for ids in (tower._before, tower._after))
    rows = tower.model.generate(
        inputs_embeds=torch.cat([before, soft, after], 1),
        attention_mask=torch.ones(3, before.shape[1] + soft.shape[1] + after.shape[1], dtype=torch.long),
        max_new_tokens=6,
        num_beams=decoding.num_beams,
        length_penalty=decoding.length_penalty if decoding.num_beams > 1 else None,
        do_sample=False,
        eos_token_id=[2, *spelled("\n")],
        pad_token_id=0,
    )
    assert tower.generate(soft, decoding) == [tower._text(row, "\n") for row in rows.tolist()]
    (prefix,) = tower._prefixes.values()
    assert prefix.get_seq_length() == len(tower._before)


def test_the_trained_text_is_the_default_prompt():
    tower = llm()
    soft = soft_prompt(tower)
    decoding = Decoding(max_new_tokens=6)
    assert tower.generate(soft, decoding) == tower.generate(soft, decoding, prompts=[PROMPT.after] * 3)
    assert tower.generate(soft, decoding) != tower.generate(soft, decoding, prompts=[" or"] * 3)


def test_beams_find_what_is_likelier_than_greedy():
    tower = llm()
    soft = soft_prompt(tower, 6).detach()
    texts = {
        beams: tower.model.generate(
            inputs_embeds=tower._prompted(soft, [tower._after] * 6)[0],
            max_new_tokens=4,
            num_beams=beams,
            eos_token_id=None,
            do_sample=False,
            pad_token_id=0,
        )
        for beams in (1, 8)
    }
    found = {beams: tower.generate(soft, Decoding(max_new_tokens=4, num_beams=beams)) for beams in (1, 8)}
    assert found[1] != found[8]
    assert found[1] == [tower._text(row, "\n") for row in texts[1].tolist()]


def test_sampling_is_keyed_by_the_seed():
    tower = llm()
    soft, decoding = soft_prompt(tower), Decoding(max_new_tokens=8, temperature=1.0, seed=1)
    assert tower.generate(soft, decoding) == tower.generate(soft, decoding)
    assert tower.generate(soft, decoding) != tower.generate(soft, replace(decoding, seed=2))
    narrow = replace(decoding, top_p=1e-9)
    assert tower.generate(soft, narrow) == tower.generate(soft, Decoding(max_new_tokens=8))


def test_sampled_tokens_are_as_frequent_as_likely():
    """Over 400 seeds, the first token's frequencies are the softmax of its logits."""
    tower = llm(prompt=Prompt(before="x", end=""))
    soft = soft_prompt(tower, 1).detach()
    sequence, mask = tower._prompted(soft, [tower._after])
    logits = tower.model(inputs_embeds=sequence, attention_mask=mask).logits[0, -1].detach()
    likely = (logits.float() / 0.25).softmax(-1)
    drawn = torch.zeros_like(likely)
    for seed in range(400):
        processors = logits_processors(Decoding(temperature=0.25, seed=seed))
        drawn[processors(torch.zeros(1, 0, dtype=torch.long), logits[None].float()).argmax()] += 1 / 400
    assert (drawn - likely).abs().sum() / 2 < 0.2
    assert likely.max() < 0.9


def test_no_token_twice_under_a_great_penalty(monkeypatch):
    tower = llm()
    monkeypatch.setattr(tower, "_text", lambda row, end: str(row))
    soft, twelve = soft_prompt(tower, 1), Decoding(max_new_tokens=12, min_new_tokens=12)
    plain, penalised = (
        json.loads(tower.generate(soft, replace(twelve, repetition_penalty=penalty))[0]) for penalty in (1.0, 50.0)
    )
    assert len(set(penalised)) == len(penalised) == len(plain) == 12 > len(set(plain))


def test_what_cannot_be_asked_is_one_sentence():
    tower = llm(prompt=Prompt(before="x", end=";;"))
    soft = soft_prompt(tower)
    with pytest.raises(ConfigError, match="2 prompts for 3 pictures"):
        tower.generate(soft, Decoding(), prompts=["a", "b"])
    with pytest.raises(ConfigError, match="needs an end mark of one token, and ';;' has more"):
        tower.generate(soft, Decoding(min_new_tokens=2))
    with pytest.raises(ConfigError, match="come to 5036 tokens, but folder:llama has 2048 positions"):
        tower.generate(soft, Decoding(), prompts=["a", "b", "c" * 5000])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0: at least 1"),
        ({"min_new_tokens": 31}, r"min_new_tokens is 31: it lies between 0 and max_new_tokens \(30\)"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0, "temperature": 1.0}, "top_p is 0.0"),
        ({"top_p": 0.5}, "top_p only narrows sampling"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"num_beams": 2, "temperature": 1.0}, "beams are searched, not sampled"),
        ({"length_penalty": 2.0}, "length_penalty only ranks beams"),
    ],
)
def test_a_decoding_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Decoding(**settings)

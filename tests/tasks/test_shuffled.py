"""Pictures of other things, and the loss with them beside the loss with the right ones, by hand."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bridges import tiny_batch, tiny_bridge
from isthmus.errors import DataError
from isthmus.language.llm import FrozenLLM, Target
from isthmus.models.stage2 import Stage2
from isthmus.records import Example
from isthmus.tasks import shuffled
from isthmus.tasks.shuffled import other_things, right_and_shuffled


def pictures(names, ids=None):
    """One picture for each name, or for each tuple of captions; each is a thing of its own unless `ids` say more."""
    ids = range(len(names)) if ids is None else ids
    captions = [(name,) if isinstance(name, str) else name for name in names]
    return [Example(Path("x.png"), str(thing), own) for thing, own in zip(ids, captions, strict=True)]


def connected(examples):
    """Slow and obvious: which pictures are the same thing, over any number of others."""
    same = [[a.image_id == b.image_id or bool({*a.captions} & {*b.captions}) for b in examples] for a in examples]
    reach = torch.tensor(same).double()
    for _ in examples:
        reach = ((reach @ reach) > 0).double()
    return reach > 0


@pytest.mark.parametrize("seed", range(20))
def test_a_permutation_onto_other_names_always(seed):
    rng = random.Random(seed)
    names = [name for name in "abcdefg" for _ in range(rng.randint(1, 6))]
    names += ["large"] * rng.randint(1, len(names))
    rng.shuffle(names)
    partner = other_things(pictures(names), seed=seed).tolist()
    assert sorted(partner) == list(range(len(names)))
    assert all(names[row] != names[other] for row, other in enumerate(partner))


@pytest.mark.parametrize("seed", range(20))
def test_nor_onto_a_picture_that_ids_and_captions_join_to_it(seed):
    rng = random.Random(seed)
    captions = [tuple(rng.sample([str(n) for n in range(40)], rng.randint(1, 3))) for _ in range(20)]
    examples = pictures(captions, [rng.randint(0, 60) for _ in captions])
    same = connected(examples)
    if 2 * int(same.sum(1).max()) > len(examples):
        with pytest.raises(DataError, match=f"{int(same.sum(1).max())} of 20 evaluation pictures are the same thing"):
            other_things(examples, seed=seed)
        return
    partner = other_things(examples, seed=seed)
    assert sorted(partner.tolist()) == list(range(20))
    assert not same[torch.arange(20), partner].any()


def test_a_row_for_each_caption_never_keeps_its_own_picture():
    """A table of four pictures, two rows each, with different captions."""
    ids = [0, 0, 1, 1, 2, 2, 3, 3]
    for seed in range(20):
        partner = other_things(pictures([f"caption {n}" for n in range(8)], ids), seed=seed).tolist()
        assert all(ids[row] != ids[other] for row, other in enumerate(partner))


def test_half_of_one_thing_is_the_most():
    assert sorted(other_things(pictures(["a", "b", "a", "c"]), seed=0).tolist()) == [0, 1, 2, 3]
    for names in (["a", "a", "b"], ["a"], ["a", "a"]):
        with pytest.raises(DataError, match="cannot be shuffled onto other things"):
            other_things(pictures(names), seed=0)
    with pytest.raises(DataError, match="2 of 3 evaluation pictures are the same thing, by image_id or caption"):
        other_things(pictures(["a", "b", "c"], [0, 0, 1]), seed=0)


def test_case_and_white_space_make_no_other_name():
    names = ["A cat", "a  cat", "dog", "Dog", "a CAT ", "bird"]
    partner = other_things(pictures(names), seed=1).tolist()
    assert all({row, other} - {0, 1, 4} for row, other in enumerate(partner))
    with pytest.raises(DataError, match="3 of 4"):
        other_things(pictures(["cat", "Cat", "CAT", "dog"]), seed=0)


def test_the_seed_is_the_key():
    names = pictures([str(number) for number in range(12)])
    assert torch.equal(other_things(names, seed=1), other_things(names, seed=1))
    assert not torch.equal(other_things(names, seed=1), other_things(names, seed=2))


def test_one_caption_a_picture_is_shuffled_as_ever():
    """Figures stay comparable: names in the order of their keys, shifted by one."""
    assert other_things(pictures(list("hgfedcba")), seed=5).tolist() == [1, 2, 6, 7, 0, 4, 3, 5]


class DigitLlm(FrozenLLM):
    """The loss of a row is its soft prompt times the digit in its caption; one label token per digit."""

    def tokenize(self, captions, draws=None):
        digits = torch.tensor([[int(caption.split()[-1])] for caption in captions])
        return Target(digits, torch.ones_like(digits, dtype=torch.bool))

    def row_losses(self, soft_prompt, target):
        digits = target.ids[:, 0].float()
        return soft_prompt[:, 0, 0].float() * digits, digits

    def generate(self, soft_prompt, decoding, *, prompts=None):
        raise AssertionError

    def embed(self, ids):
        raise AssertionError

    def vocabulary(self):
        raise AssertionError


@pytest.mark.parametrize("rows", [48, 3], ids=["one piece", "pieces"])
def test_right_and_shuffled_by_hand_over_every_caption(monkeypatch, rows):
    monkeypatch.setattr(shuffled, "_BATCH", rows)
    captions = [("is 1", "is 9", "is 4"), ("is 2",), ("is 3",), ("is 4 ",), ("is 5", "is 7"), ("is 6",), ("is 8",)]
    source = pictures([*captions, ("is 0",)])
    batches = [replace(tiny_batch(seed=n), index=torch.arange(4 * n, 4 * n + 4)) for n in (0, 1)]
    stage = Stage2(tiny_bridge(language_width=1), DigitLlm())
    prompts = stage.bridge.soft_prompt(torch.cat([batch.vision for batch in batches]))[:, 0, 0].tolist()
    partner = other_things(source, seed=5).tolist()
    found = right_and_shuffled(stage, batches, source, torch.device("cpu"), seed=5)
    digits = [sum(int(text.split()[-1]) for text in example.captions) for example in source]
    right = sum(prompts[row] * digit for row, digit in enumerate(digits)) / sum(digits)
    wrong = sum(prompts[partner[row]] * digit for row, digit in enumerate(digits)) / sum(digits)
    assert found == pytest.approx({"right": right, "shuffled": wrong, "gap": wrong - right}, rel=1e-5)

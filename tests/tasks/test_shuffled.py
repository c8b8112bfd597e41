"""Pictures of other names, and the loss with them beside the loss with the right ones, by hand."""

import random

import pytest
import torch

from bridges import tiny_batch, tiny_bridge
from isthmus.errors import DataError
from isthmus.language.llm import FrozenLLM, Target
from isthmus.models.stage2 import Stage2
from isthmus.tasks import shuffled
from isthmus.tasks.shuffled import other_names, right_and_shuffled


@pytest.mark.parametrize("seed", range(20))
def test_a_permutation_onto_other_names_always(seed):
    rng = random.Random(seed)
    names = [name for name in "abcdefg" for _ in range(rng.randint(1, 6))]
    names += ["large"] * rng.randint(1, len(names))
    rng.shuffle(names)
    partner = other_names(names, seed=seed).tolist()
    assert sorted(partner) == list(range(len(names)))
    assert all(names[row] != names[other] for row, other in enumerate(partner))


def test_half_of_one_name_is_the_most():
    assert sorted(other_names(["a", "b", "a", "c"], seed=0).tolist()) == [0, 1, 2, 3]
    for names in (["a", "a", "b"], ["a"], ["a", "a"]):
        with pytest.raises(DataError, match="cannot be shuffled onto other names"):
            other_names(names, seed=0)


def test_case_and_white_space_make_no_other_name():
    names = ["A cat", "a  cat", "dog", "Dog", "a CAT ", "bird"]
    partner = other_names(names, seed=1).tolist()
    assert all({row, other} - {0, 1, 4} for row, other in enumerate(partner))
    with pytest.raises(DataError, match="3 of 4"):
        other_names(["cat", "Cat", "CAT", "dog"], seed=0)


def test_the_seed_is_the_key():
    names = [str(number) for number in range(12)]
    assert torch.equal(other_names(names, seed=1), other_names(names, seed=1))
    assert not torch.equal(other_names(names, seed=1), other_names(names, seed=2))


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
def test_right_and_shuffled_by_hand(monkeypatch, rows):
    monkeypatch.setattr(shuffled, "_BATCH", rows)
    batches = [tiny_batch(captions=[1, 2, 3, 4]), tiny_batch(captions=[5, 6, 7, 8], seed=2)]
    stage = Stage2(tiny_bridge(language_width=1), DigitLlm())
    prompts = stage.bridge.soft_prompt(torch.cat([batch.vision for batch in batches]))[:, 0, 0].detach().detach()
    captions = [caption for batch in batches for caption in batch.captions]
    digits, partner = torch.arange(1, 9), other_names(captions, seed=5)
    found = right_and_shuffled(stage, batches, torch.device("cpu"), seed=5)
    right = float((prompts * digits).sum()) / 36
    wrong = float((prompts[partner] * digits).sum()) / 36
    assert found == pytest.approx({"right": right, "shuffled": wrong, "gap": wrong - right}, rel=1e-5)

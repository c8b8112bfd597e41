"""Layers computed again in the backward: the same loss and gradient, less kept, and the tower unchanged."""

import pytest
import torch
from torch import nn

import decoders
import encoder_decoders
from decoders import soft_prompt
from isthmus.errors import ConfigError
from isthmus.fingerprint import module_fingerprint
from isthmus.language.llm import Decoding
from isthmus.language.recomputing import recompute_layers

CAPTIONS, DRAWS = ["a dog", "red", "two big cats", "x", ""], [0.01, 0.99, 0.5, 0.7, 0.7]
TOWERS = {
    **{family: lambda family=family: decoders.llm(family) for family in decoders.MODELS},
    **{family: lambda family=family: encoder_decoders.llm(family) for family in encoder_decoders.MODELS},
}
FAMILIES = pytest.mark.parametrize("family", TOWERS)


def pair(family):
    plain, recomputing = TOWERS[family](), TOWERS[family]()
    recomputing.recompute()
    return plain, recomputing


def losses_and_gradient(tower):
    soft = soft_prompt(tower, 5)
    torch.manual_seed(4)
    sums, _ = tower.row_losses(soft, tower.tokenize(CAPTIONS, DRAWS))
    return sums.detach(), torch.autograd.grad(sums.sum(), soft)[0]


def kept_bytes(tower):
    """Memory of what a loss keeps for its backward, weights aside, each storage once."""
    own = {tensor.untyped_storage().data_ptr() for tensor in tower.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no place is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        sums, _ = tower.row_losses(soft_prompt(tower, 5), tower.tokenize(CAPTIONS, DRAWS))
    return sum(size for size, _ in kept.values()), sums


@pytest.mark.parametrize("dropout", [False, True])
@FAMILIES
def test_losses_and_gradients_are_the_same(family, dropout):
    plain, recomputing = pair(family)
    for tower in (plain, recomputing):
        tower.dropout = dropout
        tower.train()
    wanted, found = losses_and_gradient(plain), losses_and_gradient(recomputing)
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).abs().max() <= 1e-12 * b.abs().max()


@FAMILIES
def test_a_second_step_is_like_the_first(family):
    _, tower = pair(family)
    first, second = losses_and_gradient(tower), losses_and_gradient(tower)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@FAMILIES
def test_less_is_kept(family):
    plain, recomputing = pair(family)
    (before, _), (after, _) = kept_bytes(plain), kept_bytes(recomputing)
    assert after < before / 2


@FAMILIES
def test_the_tower_and_what_it_writes_stay_as_they_were(family):
    plain, recomputing = pair(family)
    losses_and_gradient(recomputing)
    assert module_fingerprint(recomputing) == module_fingerprint(plain)
    assert list(recomputing.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in recomputing.named_modules()] == [name for name, _ in plain.named_modules()]
    soft = soft_prompt(plain)
    for how in (Decoding(max_new_tokens=8), Decoding(max_new_tokens=8, num_beams=2)):
        assert recomputing.generate(soft, how) == plain.generate(soft, how)


@FAMILIES
def test_without_a_gradient_nothing_is_wrapped_and_the_beginning_comes_from_its_cache(family, monkeypatch):
    plain, recomputing = pair(family)
    target = plain.tokenize(CAPTIONS, DRAWS)
    monkeypatch.setattr("isthmus.language.recomputing.checkpoint", None)
    with torch.no_grad():
        wanted = plain.row_losses(soft_prompt(plain, 5), target)[0]
        assert torch.equal(recomputing.row_losses(soft_prompt(plain, 5), target)[0], wanted)
    assert family in encoder_decoders.MODELS or recomputing._prefixes


def test_every_layer_is_recomputed():
    assert recompute_layers(decoders.MODELS["opt"]()) == 2
    assert recompute_layers(encoder_decoders.MODELS["bart"]()) == 4, "of both halves"
    assert recompute_layers(nn.Linear(2, 2)) == 0


def test_a_model_of_unknown_layers_is_refused(monkeypatch):
    tower = decoders.llm()
    monkeypatch.setattr("isthmus.language.tower.recompute_layers", lambda model: 0)
    with pytest.raises(ConfigError, match=r"no layers of folder:llama that could be recomputed: leave out"):
        tower.recompute()

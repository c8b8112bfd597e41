import torch
from torch import nn
from torch.nn import functional as F

from isthmus.qformer.activation import gelu_then


def test_values_and_gradients_are_those_of_gelu_and_dense():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    dense, results = nn.Linear(6, 4).double(), []
    for compute in (lambda: gelu_then(dense, states), lambda: dense(F.gelu(states))):
        value = compute()
        results.append((value, *torch.autograd.grad(value.square().sum(), (states, dense.weight, dense.bias))))
    assert all(torch.equal(got, expected) for got, expected in zip(*results, strict=True))


def test_the_activated_states_are_computed_again_and_not_kept(monkeypatch):
    computed, gelu = [], F.gelu
    monkeypatch.setattr(F, "gelu", lambda states: computed.append(states) or gelu(states))
    value = gelu_then(nn.Linear(6, 4), torch.randn(5, 6, requires_grad=True) * 1)
    assert len(computed) == 1
    value.sum().backward()
    assert len(computed) == 2

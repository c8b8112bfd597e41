"""The projection's start: loud as words at random, and least squares that finds a known linear map."""

import pytest
import torch
from torch import nn

from isthmus.models.projection import SPREAD, start_least_squares, start_random


def test_a_random_start_speaks_at_the_scale_of_the_embeddings():
    projection = nn.Linear(256, 64)
    start_random(projection, scale=0.03, seed=1)
    states = torch.randn(500, 256, generator=torch.Generator().manual_seed(0))
    assert projection(states).std().item() == pytest.approx(0.03, rel=0.05)
    assert not projection.bias.any()
    again = nn.Linear(256, 64)
    start_random(again, scale=0.03, seed=1)
    assert torch.equal(again.weight, projection.weight)
    start_random(again, scale=0.03, seed=2)
    assert not torch.equal(again.weight, projection.weight)


def known_map(mean=0.0, rows=400):
    """Images whose two queries agree, so that the mean embedding is a linear map of either; inputs are white."""
    generator = torch.Generator().manual_seed(3)
    state = torch.randn(rows, 8, generator=generator, dtype=torch.float64)
    state = torch.linalg.qr(state - state.mean(0))[0] * rows**0.5
    weight = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    bias = torch.randn(5, generator=generator, dtype=torch.float64)
    return (state[:, None] + mean).expand(-1, 2, -1), state @ weight.T + bias, weight, bias


@pytest.mark.parametrize("mean", [0.0, 1.5])
def test_least_squares_finds_a_known_map_up_to_its_shrink(mean):
    states, targets, weight, bias = known_map(mean)
    projection = nn.Linear(8, 5).double()
    start_least_squares(projection, states, targets, scale=0.2)
    # white inputs: the ridge divides every direction alike, and the spread of the outputs fixes the rest
    shrink = (projection.weight / weight).mean()
    assert shrink > 0
    assert torch.allclose(projection.weight, shrink * weight, atol=1e-9)
    assert torch.allclose(projection(states).mean((0, 1)), bias, atol=1e-9)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_its_outputs_spread_by_half_the_scale_whatever_the_inputs(factor):
    states, targets, _, bias = known_map()
    projection = nn.Linear(8, 5).double()
    start_least_squares(projection, states * factor, targets, scale=0.2)
    assert (projection(states * factor) - bias).std().item() == pytest.approx(SPREAD * 0.2, rel=1e-6)


def test_states_that_say_nothing_give_the_mean_embedding():
    projection = nn.Linear(8, 5).double()
    targets = torch.randn(10, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    states = torch.randn(10, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    start_least_squares(projection, states, targets.mean(0).expand(10, 5), scale=0.2)
    assert torch.isfinite(projection.weight).all()
    assert torch.allclose(projection(states).mean((0, 1)), targets.mean(0), atol=1e-9)

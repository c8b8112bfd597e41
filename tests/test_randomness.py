import pytest
import torch

from isthmus.randomness import gumbel, hash64, permutation, uniform

MASK64 = (1 << 64) - 1


def slow_hash(*key):
    """The same mixing in Python's unbounded integers."""
    state = 0
    for word in key:
        state = ((state ^ (word & MASK64)) + 0x9E3779B97F4A7C15) & MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK64
        state ^= state >> 31
    return state


@pytest.mark.parametrize("key", [(0,), (1, 2, 3), (-5, 2**63 + 1), (2**64 - 1, 0, 7)])
def test_the_slow_oracle(key):
    assert int(hash64(*key)) & MASK64 == slow_hash(*key)


def test_tensor_words_broadcast_and_equal_scalar_words():
    grid = hash64(4, torch.arange(3)[:, None], torch.arange(2))
    assert grid.shape == (3, 2)
    assert grid[2, 1] == hash64(4, 2, 1)


def test_order_of_the_key_matters():
    assert hash64(1, 2) != hash64(2, 1)


def test_uniform_and_gumbel_have_their_moments():
    numbers = torch.arange(100_000)
    draws = uniform(0, numbers)
    assert draws.min() > 0
    assert draws.max() < 1
    assert draws.mean().item() == pytest.approx(0.5, abs=0.005)
    assert gumbel(0, numbers).mean().item() == pytest.approx(0.5772, abs=0.02)


def test_permutation_is_a_permutation_and_a_function_of_its_key():
    assert sorted(permutation(50, 1, 2).tolist()) == list(range(50))
    assert torch.equal(permutation(50, 1, 2), permutation(50, 1, 2))
    assert not torch.equal(permutation(50, 1, 2), permutation(50, 1, 3))

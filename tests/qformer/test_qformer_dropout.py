import pytest
import torch

from isthmus.qformer.dropout import draw_kept, dropout


def test_without_training_or_without_a_share_nothing_happens():
    states = torch.randn(3, 4)
    assert dropout(states, 0.5, training=False) is states
    assert dropout(states, 0.0, training=True) is states


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_stays_is_scaled_and_its_gradient_too(dtype):
    torch.manual_seed(0)
    states = torch.ones(1000, dtype=dtype, requires_grad=True)
    dropped = dropout(states, 0.25, training=True)
    dropped.sum().backward()
    assert dropped.dtype == dtype
    assert set(dropped.tolist()) == {0.0, torch.tensor(4 / 3, dtype=dtype).item()}
    assert torch.equal(states.grad, dropped)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_and_the_mean_are_as_asked(share):
    torch.manual_seed(1)
    kept, scale = draw_kept(torch.Size([1_000_001]), share)
    assert kept.float().mean().item() == pytest.approx(1 - share, abs=2e-3)
    assert scale == pytest.approx(1 / (1 - share), rel=1e-4)


def test_every_place_of_a_word_is_drawn_alike():
    """Four draws share one 64-bit word; a sign that is always 0 would show in every fourth element."""
    torch.manual_seed(2)
    kept, _ = draw_kept(torch.Size([400_000]), 0.3)
    assert (kept.view(-1, 4).float().mean(0) - 0.7).abs().max() < 5e-3
    assert (kept[:-1] & kept[1:]).float().mean().item() == pytest.approx(0.49, abs=5e-3)


def test_everything_is_dropped_at_a_share_of_one():
    states = torch.ones(10, requires_grad=True)
    assert torch.equal(dropout(states, 1.0, training=True), torch.zeros(10))


def test_the_draw_follows_the_seed():
    states = torch.ones(64)
    torch.manual_seed(5)
    first, second = dropout(states, 0.5, training=True), dropout(states, 0.5, training=True)
    torch.manual_seed(5)
    assert torch.equal(first, dropout(states, 0.5, training=True))
    assert not torch.equal(first, second)

import math

import pytest
import torch

from isthmus.objectives.itm import every_nth, itm

MATCH = torch.tensor([True, False, False])


def test_by_hand():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    term = itm(logits, match=MATCH, weight=torch.ones(3))
    expected = math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2)) + math.log(2)
    assert term.weight == 3
    assert term.sum.item() == pytest.approx(expected)


def test_a_row_without_weight_counts_neither_above_nor_below():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [9.0, -9.0]], dtype=torch.float64)
    term = itm(logits, match=MATCH, weight=torch.tensor([1.0, 1.0, 0.0]))
    assert term.weight == 2
    assert term.sum.item() == pytest.approx(math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2)))


def test_the_class_prior_is_0_637():
    prior = torch.tensor([math.log(2 / 3), math.log(1 / 3)]).expand(3, 2)
    assert itm(prior, match=MATCH, weight=torch.ones(3)).mean().item() == pytest.approx(0.6365, abs=1e-4)


def test_no_row_at_all_is_zero_over_zero_and_its_mean_is_zero():
    term = itm(torch.randn(2, 2), match=MATCH[:2], weight=torch.zeros(2))
    assert (term.sum.item(), term.weight.item(), term.mean().item()) == (0, 0, 0)


def test_unequal_ranks_sum_to_the_whole():
    logits = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    whole = itm(logits, match=MATCH, weight=torch.ones(3))
    parts = [itm(logits[s], match=MATCH[s], weight=torch.ones(len(logits[s]))) for s in (slice(0, 1), slice(1, 3))]
    assert sum(p.sum for p in parts).item() == pytest.approx(whole.sum.item())
    assert sum(p.weight for p in parts) == whole.weight


@pytest.mark.parametrize("nth", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_nth_row_is_the_same_for_any_number_of_ranks(nth, ranks):
    """Twelve rows, of which row 6 does not count and is not counted."""
    counted, found = torch.arange(12) != 6, []
    for offset in range(0, 12, 12 // ranks):
        rows = slice(offset, offset + 12 // ranks)
        anchors = every_nth(nth, counted[rows], (counted.cumsum(0) - counted.long())[rows])
        assert len(anchors.index) == -(-(12 // ranks) // nth)
        found += [offset + row for row in anchors.index[anchors.weight == 1].tolist()]
    assert found == [row for row in range(12) if row != 6][::nth]

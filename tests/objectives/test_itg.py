import math

import pytest
import torch
from torch.nn import functional as F

from isthmus.objectives.itg import IGNORED, itg, labelled, next_tokens

IDS = torch.tensor([[9, 1, 2], [9, 0, 0]])
MASK = torch.tensor([[True, True, True], [True, True, False]])


def slow_itg(logits, labels, smoothing):
    total, count = 0.0, 0
    for b in range(labels.shape[0]):
        for t in range(labels.shape[1]):
            if labels[b, t] == IGNORED:
                continue
            normaliser = math.log(sum(math.exp(x) for x in logits[b, t].tolist()))
            for word, logit in enumerate(logits[b, t].tolist()):
                target = (1 - smoothing) * bool(word == labels[b, t]) + smoothing / logits.shape[-1]
                total -= target * (logit - normaliser)
            count += 1
    return float(total), count


def test_labels_are_the_next_tokens_and_padding_is_ignored():
    assert next_tokens(IDS, MASK).tolist() == [[1, 2], [0, IGNORED]]


def test_by_hand():
    logits = torch.zeros(2, 2, 3, dtype=torch.float64)
    logits[0, 0, 1] = 1.0
    term = itg(logits, next_tokens(IDS, MASK), smoothing=0.0)
    assert term.weight == 3
    assert term.sum.item() == pytest.approx(math.log(2 + math.e) - 1 + 2 * math.log(3))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_slow_oracle(smoothing):
    logits = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = next_tokens(IDS, MASK)
    total, count = slow_itg(logits, labels, smoothing)
    term = itg(logits, labels, smoothing=smoothing)
    assert term.weight == count
    assert term.sum.item() == pytest.approx(total, abs=1e-12)


def test_unequal_ranks_sum_to_the_whole_in_tokens():
    logits = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(1))
    labels = next_tokens(IDS, MASK)
    whole = itg(logits, labels, smoothing=0.1)
    parts = [itg(logits[r : r + 1], labels[r : r + 1], smoothing=0.1) for r in range(2)]
    assert [p.weight.item() for p in parts] == [2, 1]
    assert sum(p.sum for p in parts).item() == pytest.approx(whole.sum.item(), abs=1e-5)


def test_nothing_to_predict_is_zero():
    term = itg(torch.randn(1, 1, 3), torch.full((1, 1), IGNORED), smoothing=0.1)
    assert (term.sum.item(), term.weight.item(), term.mean().item()) == (0, 0, 0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_gradient_is_that_of_torch_s_own_cross_entropy(smoothing, dtype):
    logits = (3 * torch.randn(2, 2, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).to(dtype)
    labels = next_tokens(IDS, MASK)
    ours, torchs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    (2.5 * itg(ours, labels, smoothing=smoothing).sum).backward()
    precise = torchs.to(torch.promote_types(dtype, torch.float32)).flatten(0, 1)
    (2.5 * F.cross_entropy(precise, labels.flatten(), reduction="sum", label_smoothing=smoothing)).backward()
    assert ours.grad.dtype == dtype
    torch.testing.assert_close(ours.grad, torchs.grad, atol=1e-12 if dtype == torch.float64 else 1e-2, rtol=0)
    assert not ours.grad[1, 1].any()


def test_rows_without_a_label_never_reach_the_head():
    states = torch.arange(8.0).view(2, 2, 2)
    rows, labels = labelled(states, next_tokens(IDS, MASK))
    assert rows.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert labels.tolist() == [1, 2, 0]


def test_no_row_at_all_is_zero_over_zero_with_a_gradient():
    logits = torch.randn(0, 5, dtype=torch.float64).requires_grad_()
    term = itg(logits, torch.zeros(0, dtype=torch.long), smoothing=0.1)
    assert (term.sum.item(), term.weight.item(), term.mean().item()) == (0, 0, 0)
    term.sum.backward()
    assert logits.grad.shape == (0, 5)

"""Image-grounded text generation (BLIP-2 §3.2, ITG)."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isthmus.records import Term

IGNORED = -100


def next_tokens(ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Int[Tensor, "B T-1"]:
    """What each position but the last must predict: the token after it, or `IGNORED` where that is padding."""
    return ids[:, 1:].masked_fill(~mask[:, 1:], IGNORED)


def labelled(
    states: Float[Tensor, "B T D"], labels: Int[Tensor, "B T"]
) -> tuple[Float[Tensor, "R D"], Int[Tensor, " R"]]:
    """Rows of states for the LM head: those with a label, so that no logits are made for padding.

    Counting them waits for the device, so off the CPU every position is a row and padding is `IGNORED`.
    """
    states, labels = states.flatten(0, 1), labels.flatten()
    if labels.device.type != "cpu":
        return states, labels
    rows = (labels != IGNORED).nonzero()[:, 0]
    return states.index_select(0, rows), labels[rows]


def itg(logits: Float[Tensor, "... W"], labels: Int[Tensor, "..."], *, smoothing: float) -> Term:
    """Cross-entropy of each next token over the vocabulary (W), padding ignored.

    `logits[b, t]` predicts `labels[b, t]` (see `next_tokens`); `smoothing` spreads a share of the target over all W.
    Weight: the tokens that are predicted.
    """
    rows, targets = logits.flatten(0, -2), labels.flatten()
    total = _SmoothedCrossEntropy.apply(rows, targets, smoothing)
    return Term(total, (targets != IGNORED).sum().to(total.dtype))


class _SmoothedCrossEntropy(torch.autograd.Function):
    """Label-smoothed cross-entropy, summed, that keeps the logits and one number a row for its backward.

    torch's own keeps the log-probabilities in fp32 and makes further tensors of that size when it smooths. With p the
    softmax and t the target, the gradient is p - t.
    """

    @staticmethod
    def forward(ctx: Any, logits: Float[Tensor, "R W"], labels: Int[Tensor, " R"], smoothing: float) -> Tensor:
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        counted, normaliser = labels != IGNORED, precise.logsumexp(dim=1)
        chosen = precise.gather(1, labels.clamp(min=0)[:, None])[:, 0]
        losses = normaliser - (1 - smoothing) * chosen - smoothing * precise.mean(dim=1)
        ctx.save_for_backward(logits, labels, normaliser)
        ctx.smoothing = smoothing
        return losses.masked_fill(~counted, 0).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, labels, normaliser = ctx.saved_tensors
        scale = (labels != IGNORED).to(normaliser.dtype) * gradients[0]
        gradient = torch.sub(logits, normaliser[:, None]).exp_().sub_(ctx.smoothing / logits.shape[1])
        chosen = torch.full_like(normaliser, ctx.smoothing - 1)[:, None]
        gradient.scatter_add_(1, labels.clamp(min=0)[:, None], chosen)
        return gradient.mul_(scale[:, None]).to(logits.dtype), None, None

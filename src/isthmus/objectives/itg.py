"""Image-grounded text generation (BLIP-2 §3.2, ITG)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from isthmus.records import Term

IGNORED = -100


def next_tokens(ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Int[Tensor, "B T-1"]:
    """What each position but the last must predict: the token after it, or `IGNORED` where that is padding."""
    return ids[:, 1:].masked_fill(~mask[:, 1:], IGNORED)


def itg(logits: Float[Tensor, "B T W"], labels: Int[Tensor, "B T"], *, smoothing: float) -> Term:
    """Cross-entropy of each next token over the vocabulary (W), padding ignored.

    `logits[b, t]` predicts `labels[b, t]` (see `next_tokens`). Weight: the tokens that are predicted.
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(
        precise.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )
    return Term(total, (labels != IGNORED).sum().to(precise.dtype))

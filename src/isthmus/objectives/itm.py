"""Image-text matching (BLIP-2 §3.2, ITM)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from isthmus.records import Term


def itm(logits: Float[Tensor, "R 2"], *, match: Bool[Tensor, " R"], weight: Float[Tensor, " R"]) -> Term:
    """Two-way cross-entropy of each row: whether this text belongs to this image.

    `logits` are the head's, averaged over the queries; column 1 says match. `weight` is 1 for a row that counts
    and 0 for a negative that could not be drawn. Weight: the rows that count.
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    rows = F.cross_entropy(precise, match.long(), reduction="none")
    return Term((rows * weight).sum(), weight.sum().to(precise.dtype))

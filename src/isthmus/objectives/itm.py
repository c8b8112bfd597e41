"""Image-text matching (BLIP-2 §3.2, ITM)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from isthmus.records import Term


@dataclass(frozen=True)
class Anchors:
    """The rows that ITM is computed on: their places, and what each weighs, 1, or 0 for one that does not count."""

    index: Int[Tensor, " M"]
    weight: Float[Tensor, " M"]


def every_nth(nth: int, counted: Bool[Tensor, " B"], number: Int[Tensor, " B"]) -> Anchors:
    """Every nth of the rows that count, of which `number` says how many came before, on all ranks.

    So they are the same however many ranks share the batch. Every rank has equally many places, the last of them of
    weight 0 where it has fewer such rows.
    """
    taken = counted & (number % nth == 0)
    index = (~taken).long().argsort(stable=True)[: -(-len(taken) // nth)]
    return Anchors(index, taken[index].float())


def itm(logits: Float[Tensor, "R 2"], *, match: Bool[Tensor, " R"], weight: Float[Tensor, " R"]) -> Term:
    """Two-way cross-entropy of each row: whether this text belongs to this image.

    `logits` are the head's, averaged over the queries; column 1 says match. `weight` is 1 for a row that counts
    and 0 for a negative that could not be drawn. Weight: the rows that count.
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    rows = F.cross_entropy(precise, match.long(), reduction="none")
    return Term((rows * weight).sum(), weight.sum().to(precise.dtype))

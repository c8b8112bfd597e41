"""Where the loss of a caption is read off a language model's output."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isthmus.records import Text


@dataclass(frozen=True)
class Labels:
    """Where logits are needed, and what they are held against.

    `kept` is what `logits_to_keep` takes; `ids`, `rows` and `weights` hold one entry per logit, row after row.
    """

    kept: Tensor
    ids: Int[Tensor, " K"]
    rows: Int[Tensor, " K"]
    weights: Float[Tensor, " K"]


def place_labels(target: Text, first: int, *, compact: bool) -> Labels:
    """Find the columns whose logits predict the caption: label t is predicted from column `first` + t.

    `compact` keeps label positions only, by a mask; counting them waits for the device, so off the CPU all
    T columns are kept and padding weighs 0.
    """
    batch, length = target.ids.shape
    if compact:
        kept = torch.cat([target.mask.new_zeros(batch, first), target.mask], 1)
        rows = target.mask.nonzero()[:, 0]
        ids = target.ids[target.mask]
        return Labels(kept, ids, rows, torch.ones_like(ids, dtype=torch.float32))
    columns = torch.arange(first, first + length, device=target.ids.device)
    rows = torch.arange(batch, device=target.ids.device).repeat_interleave(length)
    return Labels(columns, target.ids.flatten(), rows, target.mask.flatten().float())

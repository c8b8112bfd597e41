"""Collectives that are the identity in one process: gather, reduce, rank (DESIGN 5.2).

No process group is needed on one device. Gathering assumes that every rank holds the same number of rows;
training batches do (the sampler drops the last, short one).
"""

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed

from isthmus.meeting import agree, in_turn, meet, rank, telling, wait, world_size

__all__ = [
    "agree",
    "gather",
    "gather_padded",
    "in_turn",
    "meet",
    "rank",
    "reduce_sum",
    "telling",
    "wait",
    "world_size",
]


class _GatherRows(torch.autograd.Function):
    """All ranks' rows in rank order; the backward sums every rank's gradient of this rank's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return _all_rows(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(world_size())[rank()]


def _all_rows(rows: Tensor) -> Tensor:
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def gather(rows: Shaped[Tensor, "B ..."], *, exact: bool = True) -> Shaped[Tensor, "N ..."]:
    """Concatenate the rows of all ranks, in rank order.

    `exact`: the gradient of every rank's loss reaches the rows, so ITC on W ranks of batch B is the gradient
    of one process with batch W·B. Otherwise no gradient passes, in one process too, as in the original
    (reference: LAVIS `concat_all_gather`).
    """
    if not exact or not rows.is_floating_point():
        rows = rows.detach()
        return rows if world_size() == 1 else _all_rows(rows)
    if world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


def reduce_sum(value: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Sum a tensor over all ranks, without gradient."""
    value = value.detach()
    if world_size() > 1:
        value = value.clone()
        distributed.all_reduce(value)
    return value


def gather_padded(rows: Shaped[Tensor, "B T"]) -> Shaped[Tensor, "N W"]:
    """Gather integer rows whose width differs between ranks: zeros fill up to the widest; no gradient."""
    if world_size() > 1:
        width = torch.tensor(rows.shape[1], device=rows.device)
        distributed.all_reduce(width, distributed.ReduceOp.MAX)
        rows = torch.nn.functional.pad(rows, (0, int(width) - rows.shape[1]))
    return gather(rows, exact=False)

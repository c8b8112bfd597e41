"""Collectives that are the identity in one process: gather, exchange, reduce, rank (DESIGN 5.2).

No process group is needed on one device. Gathering and exchanging assume that every rank holds the same number of
rows; training batches do: a short one is filled up with rows that do not count (`records.Batch.counted`).
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, distributed

from isthmus.meeting import agree, gather_objects, in_turn, meet, rank, telling, wait, world_size

__all__ = [
    "Exchange",
    "agree",
    "gather",
    "gather_objects",
    "gather_together",
    "in_turn",
    "meet",
    "rank",
    "reduce_sum",
    "reduce_sums",
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


def gather_together(*numbers: Int[Tensor, " B"]) -> tuple[Int[Tensor, " N"], ...]:
    """Gather several whole numbers of each row in one collective."""
    return numbers if world_size() == 1 else gather(torch.stack(numbers, 1)).unbind(1)


def reduce_sum(value: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Sum a tensor over all ranks, without gradient."""
    value = value.detach()
    if world_size() > 1:
        value = value.clone()
        distributed.all_reduce(value)
    return value


def reduce_sums(values: Mapping[str, Shaped[Tensor, ""]]) -> dict[str, Shaped[Tensor, ""]]:
    """Sum named numbers over all ranks in one collective, without gradient; every rank gives the same names."""
    if world_size() == 1 or not values:
        return {name: value.detach() for name, value in values.items()}
    together = torch.stack([value.detach().double() for value in values.values()])  # exact for whole numbers
    distributed.all_reduce(together)
    return {name: total.to(values[name].dtype) for name, total in zip(values, together, strict=True)}


class Exchange:
    """Rows that were chosen from the gathered batch, fetched by the ranks that need them; nothing else travels.

    A row travels once to each rank that needs it, however often it was chosen there, and never to its own. Made right
    after the choice: the host must know how many rows travel, and that is copied to it while the device goes on; the
    first `fetch` waits for the copy, the only one of a step (DESIGN 5.9). In one process nothing is sent or waited for.
    """

    def __init__(self, *wanted: Int[Tensor, " K"], rows: int, width: int) -> None:
        """`wanted` are the gathered places of rows that this rank needs, one tensor for each exchange of rows.

        `rows` is B, each rank's number of rows; `width` of this rank's texts, of which `widest` tells the largest.
        All ranks give equally many places.
        """
        self._wanted, self._rows, self._width = wanted, rows, width
        if world_size() > 1:
            self._ask()

    def _ask(self) -> None:
        """Tell every rank what this one needs, and count what will travel."""
        mine, world, me = torch.stack(self._wanted), world_size(), rank()
        told = gather(torch.cat([mine.flatten(), mine.new_full((1,), self._width)])[None])
        self._sorted, self._order = told[:, :-1].view(world, *mine.shape).sort(dim=2)
        owner = self._sorted // self._rows
        first = torch.ones_like(owner, dtype=torch.bool)
        first[..., 1:] = self._sorted[..., 1:] != self._sorted[..., :-1]
        self._travels = first & (owner != torch.arange(world, device=owner.device)[:, None, None])
        self._asked = self._travels & (owner == me)
        received = owner.new_zeros(len(mine), world).scatter_add(1, owner[me], self._travels[me].to(owner.dtype))
        counts = torch.cat([self._asked.sum(2).T.flatten(), received.flatten(), told[:, -1].amax()[None]])
        self._counts = counts.to("cpu", non_blocking=True)
        self._copied = None
        if counts.device.type != "cpu":
            self._copied = torch.Event(counts.device)
            self._copied.record()

    @cached_property
    def _numbers(self) -> tuple[list[list[int]], list[list[int]], int]:
        """For each exchange how many rows go to each rank, and come from each; and the widest text's width."""
        if self._copied is not None:
            self._copied.synchronize()
        both = self._counts[:-1].view(2, len(self._wanted), world_size())
        return both[0].tolist(), both[1].tolist(), int(self._counts[-1])

    @property
    def widest(self) -> int:
        """The width of the widest rank's texts."""
        return self._width if world_size() == 1 else self._numbers[2]

    def fetch(self, number: int, rows: Shaped[Tensor, "B C ..."]) -> Shaped[Tensor, "F C ..."]:
        """Other ranks' rows that exchange `number` needs here, in gathered order, each once; no gradient.

        `rows` are this rank's own; those of all ranks have one shape. Bytes are sent: any dtype travels on any backend.
        """
        if world_size() == 1:
            return rows.detach()[:0]
        sent, received, _ = self._numbers
        asked = self._asked[:, number].flatten().nonzero_static(size=sum(sent[number]))[:, 0]
        places = self._sorted[:, number].flatten().index_select(0, asked) - rank() * self._rows
        parcel = rows.detach().index_select(0, places)
        fetched = parcel.new_empty(sum(received[number]), *rows.shape[1:])
        distributed.all_to_all_single(
            fetched.view(torch.uint8), parcel.view(torch.uint8), received[number], sent[number]
        )
        return fetched

    def places(self, number: int) -> Int[Tensor, " K"]:
        """Where each row that exchange `number` wants stands among this rank's own, followed by the fetched ones."""
        if world_size() == 1:
            return self._wanted[number]
        me = rank()
        values, travels = self._sorted[me, number], self._travels[me, number]
        fetched = self._rows + travels.cumsum(0) - 1
        standing = torch.where(values // self._rows == me, values - me * self._rows, fetched)
        return torch.empty_like(standing).scatter(0, self._order[me, number], standing)

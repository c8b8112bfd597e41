"""Which rows a step sees: a pure function of (seed, epoch, position), the same on any rank, worker or resume.

The stock samplers keep a state and do not resume exactly (reference: huggingface/accelerate#4195); these
have no state to lose.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from isthmus.data.lengths import like_lengths
from isthmus.errors import ConfigError, DataError
from isthmus.fingerprint import text_identity
from isthmus.randomness import permutation

_ORDER = text_identity("order of an epoch")
_PART = text_identity("order of a part's round")
WINDOW = 32
"""Batches that share out their rows by length: enough for like lengths, and few enough that an epoch stays in random
order and no more captions are measured at a time."""

Lengths = Callable[[Int[Tensor, " R"], Int[Tensor, " R"]], Int[Tensor, " R"]]
"""How long rows are: each one's epoch and index to a number, the same in every process."""


class Visit(NamedTuple):
    """What a worker is told about a row: the key of its crop and caption, which row it is, and its place in the run.

    `epoch` counts how often the row was drawn before, which is the epoch where each comes once; `row` is its index in
    the source, `place` its position among all rows of the run. `counted` is None where every rank holds as many rows of
    the batch as the others; elsewhere it is False for a row that only fills a rank's share up.
    """

    epoch: int
    row: int
    place: int = 0
    counted: bool | None = None


@dataclass(frozen=True)
class Drawn:
    """What a run drew from a source: rows, and how many different ones of its examples."""

    rows: int
    examples: int


class CounterSampler:
    """The training order: each epoch is one keyed permutation, cut into global batches.

    Of a `share` (rank, world size), rank r takes the contiguous slice r of a global batch, so the slices of all ranks,
    concatenated, are the batch of one process. The rows that do not fill a last batch are left out of that epoch or,
    with `keep_last`, are a shorter one: ranks share it as evenly as they can, the first take one more, and those with
    one less hold a copy that does not count. With `lengths`, each `WINDOW` batches of the epoch share their rows out by
    length, and follow one another by a keyed draw; a short batch stays the last.

    Raises DataError when the source does not fill one global batch that has to be full, ConfigError when the ranks
    cannot share a full one evenly.
    """

    def __init__(
        self,
        length: int,
        global_batch: int,
        *,
        seed: int,
        share: tuple[int, int] = (0, 1),
        lengths: Lengths | None = None,
        keep_last: bool = False,
    ) -> None:
        self._rank, self._world_size = share
        if global_batch < 1 or global_batch % self._world_size:
            raise ConfigError(
                f"A global batch of {global_batch} rows cannot be shared evenly by {self._world_size} processes; "
                f"choose a positive multiple of {self._world_size}."
            )
        if length < (1 if keep_last else global_batch):
            raise DataError(
                f"The source has {length} rows, fewer than one global batch of {global_batch}; "
                "choose a smaller batch, add pictures, or keep batches that are not full (train.last_batch: keep)."
            )
        self.length = length
        self.global_batch = global_batch
        self.seed = seed
        self.rows_per_epoch = length if keep_last else length - length % global_batch
        """Rows of all global batches of an epoch."""
        self._lengths = lengths

    @property
    def batches_per_epoch(self) -> int:
        """Global batches in one epoch."""
        return -(-self.rows_per_epoch // self.global_batch)

    def order(self, epoch: int) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]:
        """Each row of an epoch, before any is sorted by length: how often it was drawn before, and its index."""
        indices = permutation(self.length, self.seed, _ORDER, epoch)[: self.rows_per_epoch]
        return torch.full_like(indices, epoch), indices

    def epoch_batches(self, epoch: int, start: int = 0) -> Iterator[list[Visit]]:
        """Yield this rank's rows, batch by batch, from batch `start` of the epoch to its end."""
        place = epoch * self.rows_per_epoch + start * self.global_batch
        for earlier, indices in self._batches(epoch, start):
            own = self._own(len(indices))
            yield [Visit(int(earlier[row]), int(indices[row]), place + row, counted) for row, counted in own]
            place += self.global_batch

    def _own(self, rows: int) -> list[tuple[int, bool | None]]:
        """Which rows of a global batch this rank holds, and which of them count, where some ranks need copies."""
        each, more = divmod(rows, self._world_size)
        first = self._rank * each + min(self._rank, more)
        own = range(first, first + each + (self._rank < more))
        if not more:
            return [(row, None) for row in own]
        copy = own[0] if own else 0
        return [*((row, True) for row in own), *((copy, False) for _ in range(each + 1 - len(own)))]

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]]:
        """Global batches from batch `start` of an epoch; rows are sorted as their window comes up."""
        earlier, indices = self.order(epoch)
        for first in range(start // WINDOW * WINDOW, self.batches_per_epoch, WINDOW):
            stop = min((first + WINDOW) * self.global_batch, self.rows_per_epoch)
            window = torch.arange(first * self.global_batch, stop)
            if self._lengths is not None:
                lengths = self._lengths(earlier[window], indices[window])
                window = window[like_lengths(lengths, self.global_batch, self.seed, epoch, first)]
            for rows in torch.split(window, self.global_batch)[max(start - first, 0) :]:
                yield earlier[rows], indices[rows]

    def _begun(self, epoch: int, batches: int) -> Int[Tensor, " rows"]:
        """The rows of an epoch's first batches, of which only those in the last window must be sorted."""
        whole = batches // WINDOW * WINDOW
        last = [indices for _, indices in islice(self._batches(epoch, whole), batches - whole)]
        return torch.cat([self.order(epoch)[1][: whole * self.global_batch], *last])

    def steps(self, start: int, stop: int) -> Iterator[list[Visit]]:
        """Yield this rank's rows for the global steps from `start` to before `stop`, across epochs."""
        step = start
        while step < stop:
            epoch, position = divmod(step, self.batches_per_epoch)
            for visits in self.epoch_batches(epoch, position):
                if step == stop:
                    return
                yield visits
                step += 1

    def drawn(self, steps: int) -> tuple[Drawn, ...]:
        """What all ranks together draw in the first so many global steps, for each source."""
        epochs, left = divmod(steps, self.batches_per_epoch)
        seen = torch.zeros(self.length, dtype=torch.bool)
        for epoch in range(epochs):
            seen[self.order(epoch)[1]] = True
            if seen.all():
                break
        begun = self._begun(epochs, left)
        seen[begun] = True
        return (Drawn(epochs * self.rows_per_epoch + len(begun), int(seen.sum())),)


class MixtureSampler(CounterSampler):
    """The training order of several sources that stand one after the other, each with a weight.

    An epoch has as many rows as all sources together. Each source has the same share of every epoch's rows, in
    proportion to its weight, rounded to whole rows; where they stand is a keyed permutation. Within a source the
    order is one keyed permutation after another, going on from epoch to epoch, so that every example is drawn once
    before any is drawn twice. `parts` are (size, weight).

    Raises what `CounterSampler` raises.
    """

    def __init__(
        self,
        parts: Sequence[tuple[int, float]],
        global_batch: int,
        *,
        seed: int,
        share: tuple[int, int] = (0, 1),
        lengths: Lengths | None = None,
        keep_last: bool = False,
    ) -> None:
        self.sizes = [size for size, _ in parts]
        length = sum(self.sizes)
        super().__init__(length, global_batch, seed=seed, share=share, lengths=lengths, keep_last=keep_last)
        self.quotas = _apportion([weight for _, weight in parts], self.rows_per_epoch)

    def order(self, epoch: int) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]:
        """Each row of an epoch, unsorted: how often it was drawn before, and its index among all sources."""
        labels = self._labels(epoch)
        earlier, indices = torch.empty_like(labels), torch.empty_like(labels)
        first = 0
        for part, (size, quota) in enumerate(zip(self.sizes, self.quotas, strict=True)):
            number = torch.arange(epoch * quota, (epoch + 1) * quota)
            rounds, places = number // size, number % size
            chosen = torch.empty_like(number)
            for one in range(int(rounds[0]), int(rounds[-1]) + 1):
                order = permutation(size, self.seed, _PART, part, one)
                chosen[rounds == one] = order[places[rounds == one]]
            where = labels == part
            earlier[where], indices[where] = rounds, first + chosen
            first += size
        return earlier, indices

    def _labels(self, epoch: int) -> Int[Tensor, " rows"]:
        """Which source stands at each place of an epoch."""
        labels = torch.arange(len(self.quotas)).repeat_interleave(torch.tensor(self.quotas))
        return labels[permutation(len(labels), self.seed, _ORDER, epoch)]

    def drawn(self, steps: int) -> tuple[Drawn, ...]:
        """What all ranks together draw in the first so many global steps, for each source."""
        epochs, left = divmod(steps, self.batches_per_epoch)
        begun, first, parts = self._begun(epochs, left), 0, []
        for part, (size, quota) in enumerate(zip(self.sizes, self.quotas, strict=True)):
            own = begun[(begun >= first) & (begun < first + size)] - first
            seen = torch.zeros(size, dtype=torch.bool)
            seen[permutation(size, self.seed, _PART, part, 0)[: epochs * quota]] = True
            seen[own] = True
            parts.append(Drawn(epochs * quota + len(own), int(seen.sum())))
            first += size
        return tuple(parts)


def _apportion(weights: Sequence[float], rows: int) -> list[int]:
    """Share out rows by weight, in whole numbers: the largest remainders are rounded up."""
    exact = [weight / sum(weights) * rows for weight in weights]
    quotas = [int(share) for share in exact]
    largest = sorted(range(len(weights)), key=lambda part: (quotas[part] - exact[part], part))
    for part in largest[: rows - sum(quotas)]:
        quotas[part] += 1
    return quotas


def sequential_batches(length: int, batch: int, *, share: tuple[int, int] = (0, 1)) -> Iterator[list[int]]:
    """Yield each index once, in order, for evaluation; the last batch may be short.

    Of a `share` (rank, world size), rank r takes a contiguous part; over all ranks each index comes exactly once.
    """
    rank, world_size = share
    start, stop = (length * part // world_size for part in (rank, rank + 1))
    for first in range(start, stop, batch):
        yield list(range(first, min(first + batch, stop)))

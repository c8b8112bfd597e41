"""Several sources in one."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from isthmus.data.lengths import CaptionLengths
from isthmus.data.sampler import CounterSampler, MixtureSampler
from isthmus.errors import DataError
from isthmus.records import Example, Source


@dataclass(frozen=True)
class Part:
    """A source in a mixture: what it is called, and its weight among the others (None: its size)."""

    name: str
    source: Source
    weight: float | None = None


@dataclass(frozen=True)
class Subset:
    """Some rows of a source, in a given order; a `Source`."""

    source: Source
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[self.indices[index]]


class Mixture:
    """One or more sources, one after the other; a `Source`.

    An `image_id` counts within its part: of several parts with different names, two with the same id are two things.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self._stops = list(accumulate(len(part.source) for part in self.parts))

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    def __getitem__(self, index: int) -> Example:
        number = bisect_right(self._stops, index)
        part = self.parts[number]
        example = part.source[index - self.spans[number].start]
        return example if len(self.parts) == 1 else replace(example, image_id=f"{part.name}: {example.image_id}")

    @property
    def spans(self) -> tuple[range, ...]:
        """Each part's indices."""
        starts = [0, *self._stops[:-1]]
        return tuple(range(start, stop) for start, stop in zip(starts, self._stops, strict=True))

    def keep(self, kept: Sequence[bool]) -> "Mixture":
        """The rows marked True, in the same order; a part of which none is left goes."""
        parts = []
        for part, span in zip(self.parts, self.spans, strict=True):
            indices = [index - span.start for index in span if kept[index]]
            if indices:
                parts.append(replace(part, source=Subset(part.source, indices)))
        return Mixture(parts)

    def sampler(
        self,
        global_batch: int,
        *,
        seed: int,
        share: tuple[int, int] = (0, 1),
        by_length: bool = False,
        keep_last: bool = False,
    ) -> CounterSampler:
        """The order of training: one permutation an epoch, or the parts by their weights; batches of like length.

        `share` is (rank, world size); `keep_last` keeps the rows that do not fill an epoch's last global batch.

        Raises what the samplers raise, and DataError naming a part whose weight earns it no row.
        """
        lengths = CaptionLengths(self, seed) if by_length else None
        if len(self.parts) == 1:
            return CounterSampler(len(self), global_batch, seed=seed, share=share, lengths=lengths, keep_last=keep_last)
        sizes = [len(span) for span in self.spans]
        weights = [part.weight or float(size) for part, size in zip(self.parts, sizes, strict=True)]
        parts = list(zip(sizes, weights, strict=True))
        sampler = MixtureSampler(parts, global_batch, seed=seed, share=share, lengths=lengths, keep_last=keep_last)
        for part, quota in zip(self.parts, sampler.quotas, strict=True):
            if not quota:
                raise DataError(
                    f"{part.name}: the weight {part.weight} earns this source no row in an epoch of "
                    f"{sum(sampler.quotas)}; raise it or leave the source out."
                )
        return sampler

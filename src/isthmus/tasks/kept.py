"""Batches that an evaluation goes through more than once, though pictures should be encoded once."""

from collections.abc import Iterable, Iterator

from isthmus.records import Batch

LIMIT = 2 << 30
"""Bytes of patches that are kept on the host: 3,000 pictures of ViT-g/14 in bf16, or 17,000 of the quickstart's."""


class Kept:
    """Batches that are made in the first pass and kept on the host for those that follow.

    Where their pictures take more than `limit` bytes nothing is kept, and every pass makes them again.
    """

    def __init__(self, batches: Iterable[Batch], *, limit: int = LIMIT) -> None:
        self._batches = batches
        self._limit = limit
        self._kept: list[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Batch] = []
        size = 0
        for batch in self._batches:
            size += batch.vision.nbytes
            if size <= self._limit:
                kept.append(batch.to("cpu"))
            else:
                kept.clear()
            yield batch
        if size <= self._limit:
            self._kept = kept

"""Which rows a step sees: a pure function of (seed, epoch, position), the same on any rank, worker or resume.

The stock samplers keep a state and do not resume exactly (reference: huggingface/accelerate#4195); this one
has no state to lose.
"""

from collections.abc import Iterator

from isthmus.errors import ConfigError, DataError
from isthmus.fingerprint import text_identity
from isthmus.randomness import permutation

_ORDER = text_identity("order of an epoch")


class CounterSampler:
    """The training order: each epoch is one keyed permutation, cut into global batches.

    Rank r takes the contiguous slice r of a global batch, so the slices of all ranks, concatenated, are the
    batch of one process. The rows that do not fill a last batch are left out of that epoch.

    Raises DataError when the source does not fill one global batch, ConfigError when the ranks cannot share
    it evenly.
    """

    def __init__(self, length: int, global_batch: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if global_batch < 1 or global_batch % world_size:
            raise ConfigError(
                f"A global batch of {global_batch} rows cannot be shared evenly by {world_size} processes; "
                f"choose a positive multiple of {world_size}."
            )
        if length < global_batch:
            raise DataError(
                f"The source has {length} rows, fewer than one global batch of {global_batch}; "
                "choose a smaller batch or add pictures."
            )
        self.length = length
        self.global_batch = global_batch
        self.seed = seed
        rows = global_batch // world_size
        self._share = slice(rank * rows, (rank + 1) * rows)

    @property
    def batches_per_epoch(self) -> int:
        """Full global batches in one epoch."""
        return self.length // self.global_batch

    def epoch_batches(self, epoch: int, start: int = 0) -> Iterator[list[int]]:
        """Yield this rank's source indices, batch by batch, from batch `start` of the epoch to its end."""
        order = permutation(self.length, self.seed, _ORDER, epoch)
        for position in range(start, self.batches_per_epoch):
            first = position * self.global_batch
            yield order[first : first + self.global_batch][self._share].tolist()

    def steps(self, start: int, stop: int) -> Iterator[tuple[int, list[int]]]:
        """Yield (epoch, indices) for the global steps from `start` to before `stop`, across epochs."""
        step = start
        while step < stop:
            epoch, position = divmod(step, self.batches_per_epoch)
            for indices in self.epoch_batches(epoch, position):
                if step == stop:
                    return
                yield epoch, indices
                step += 1


def sequential_batches(length: int, batch: int, *, rank: int = 0, world_size: int = 1) -> Iterator[list[int]]:
    """Yield each index once, in order, for evaluation; the last batch may be short.

    Rank r takes a contiguous share; over all ranks each index comes exactly once.
    """
    start, stop = (length * part // world_size for part in (rank, rank + 1))
    for first in range(start, stop, batch):
        yield list(range(first, min(first + batch, stop)))

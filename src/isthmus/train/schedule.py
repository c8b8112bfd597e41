"""The learning rate, as a share of its peak: a linear rise, then half a cosine."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """When the rate rises and falls, in optimizer steps counted from 0, and from where to where, as shares of the peak.

    The cosine moves with every step (BLIP-2 §3.4), or with every epoch, as in the original's code (LAVIS
    `lavis/common/optims.py`, `LinearWarmupCosineLRScheduler`). There the warm-up belongs to the first epoch: one that
    ends earlier waits at the peak, one that is longer is broken off and the rate jumps to the cosine.
    """

    steps: int
    warmup: int
    start: float
    lowest: float
    epochs: int | None = None
    """How many epochs the run has, where the cosine moves with them."""

    def share(self, step: int, epoch: int) -> float:
        """Share of the peak at a step, which lies in an epoch."""
        if self.epochs is not None:
            return self._by_epoch(step, epoch)
        if step < self.warmup:
            return self.start + (1 - self.start) * (step + 1) / self.warmup
        return self._cosine((step - self.warmup) / max(1, self.steps - self.warmup))

    def _by_epoch(self, step: int, epoch: int) -> float:
        assert self.epochs is not None
        if epoch == 0:
            return self.start + (1 - self.start) * step / self.warmup if step < self.warmup else 1.0
        return self._cosine(epoch / self.epochs)

    def _cosine(self, through: float) -> float:
        return self.lowest + (1 - self.lowest) * (1 + math.cos(math.pi * through)) / 2

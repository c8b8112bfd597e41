"""What a run does when, in optimizer steps."""

from dataclasses import dataclass

from isthmus.train.schedule import Schedule


@dataclass(frozen=True)
class Plan:
    """Counts and shares of a run, in optimizer steps."""

    steps: int
    batches_per_epoch: int
    accumulation: int
    warmup: int
    warmup_from: float
    lowest: float
    cosine_by_epoch: bool
    clip: float
    seed: int
    per_rank_mean: bool
    log_every: int
    evaluate_every: int | None
    save_every: int | None
    save_seconds: float | None
    stop_after_skipped: int
    together: bool = False
    """All ranks evaluate together, as where the language model is shared out: none may leave it alone."""

    def epoch(self, number: int) -> int:
        """The epoch of the rows of step `number`, counted from 0."""
        return number * self.accumulation // self.batches_per_epoch

    def rate(self, number: int) -> float:
        """The learning rate of step `number`, as a share of its peak."""
        epochs = self.epoch(self.steps - 1) + 1 if self.cosine_by_epoch else None
        schedule = Schedule(self.steps, self.warmup, self.warmup_from, self.lowest, epochs)
        return schedule.share(number, self.epoch(number))

"""How much work a quickstart does: fixed step counts, or as many as a budget of time allows on this machine.

Counts are written down when they are first known and reused when the run goes on, so that an interrupted run ends
as it began.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from isthmus.build.precision import Compute
from isthmus.build.training import Training
from isthmus.quickstart.notes import read_notes, write_notes
from isthmus.quickstart.work import Work

PLAN = "plan.json"
STAGE1_SHARE = 0.6  # of the time left after pictures and features, the rest is stage 2's
EVALUATION_SHARE = 0.15  # of the whole budget
FEWEST_STEPS = {1: 60, 2: 40}
_MEASURED_STEPS = 3
_GEMM = (2048, 768, 3072)


class StepPlan:
    """The step counts of one quickstart folder, kept in `plan.json` with what was asked for."""

    def __init__(self, folder: Path, work: Work, asked: dict[str, object]) -> None:
        self._path, self._work = folder / PLAN, work
        self._asked = {"work": work.describe(), **asked}
        self._begun = time.monotonic()
        stored = read_plan(folder)
        fresh: dict[str, Any] = {"steps": {}, "spent": 0.0}
        own = stored if stored and stored["asked"] == self._asked else fresh
        self._counts: dict[str, int] = own["steps"]
        self._spent: float = own["spent"]
        if work.steps is not None:
            self._counts = {"1": work.steps[0], "2": work.steps[1]}
        self._write()

    def known(self, stage: int) -> int | None:
        """The stage's step count, if it is fixed or was written down before."""
        return self._counts.get(str(stage))

    @contextmanager
    def counting(self) -> Iterator[None]:
        """What comes before stage 1 is sized; an interruption keeps its time, and the next start counts on.

        Not the phases' own times: pictures and features may be those of an earlier order, and cost this one nothing.
        """
        try:
            yield
        finally:
            if self.known(1) is None:
                self._count()
                self._write()

    def decide(self, stage: int, seconds_per_step: float, *, trained: float) -> int:
        """Fix the stage's count by what the budget leaves, and write it down.

        `trained` is the time that the stage before took, in all processes that it ran in; the time before stage 1 was
        written down with its count.
        """
        assert self._work.budget is not None
        if stage == 1:
            self._count()
        left = self._work.budget * (1 - EVALUATION_SHARE) - self._spent - trained
        share = left * (STAGE1_SHARE if stage == 1 else 1)
        self._counts[str(stage)] = max(FEWEST_STEPS[stage], int(share / seconds_per_step))
        self._write()
        return self._counts[str(stage)]

    def _count(self) -> None:
        """Add this process's time since it was last counted."""
        now = time.monotonic()
        self._spent, self._begun = self._spent + now - self._begun, now

    def _write(self) -> None:
        content = {"asked": self._asked, "steps": self._counts, "spent": round(self._spent, 1)}
        write_notes(self._path, content)


def read_plan(folder: Path) -> dict[str, Any] | None:
    """The plan of a folder, or None where there is none that can be read."""
    plan = read_notes(folder / PLAN)
    return plan if plan is not None and {"asked", "steps", "spent"} <= plan.keys() else None


def measure_step(training: Training) -> float:
    """Seconds of one optimizer step, from a few steps of a run that is thrown away; the first is not counted."""
    trainer, stream = training.trainer, iter(training.batches)
    begun = 0.0
    for number in range(_MEASURED_STEPS):
        if number == 1:
            begun = time.monotonic()
        float(trainer.step([next(stream).to(trainer.accelerator.device)], number))  # waits for the device
    return (time.monotonic() - begun) / (_MEASURED_STEPS - 1)


def gemm_rate(compute: Compute) -> float:
    """This machine's matrix-product rate in the run's precision, GFLOP/s (2,048 x 768 x 3,072, best of five)."""
    rows, inner, columns = _GEMM
    left = torch.randn(rows, inner, device=compute.device, dtype=compute.dtype)
    right = torch.randn(inner, columns, device=compute.device, dtype=compute.dtype)
    seconds = []
    for _ in range(5):
        begun = time.monotonic()
        (left @ right).sum().item()
        seconds.append(time.monotonic() - begun)
    return 2e-9 * rows * inner * columns / min(seconds)

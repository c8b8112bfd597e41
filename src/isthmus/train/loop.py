"""The training loop: one optimizer step, and what happens every so many of them.

Weights of all loss terms are counted over ranks and micro-batches before the step's first backward, so that
unequal ranks and accumulation never shift a loss (DESIGN §3). A step whose gradient is not finite is skipped on the
device, without a sync, and counted in the log.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from isthmus import distributed
from isthmus.errors import UserError
from isthmus.fingerprint import text_identity
from isthmus.models.stage1 import Stage1
from isthmus.randomness import hash64
from isthmus.records import Batch, Step, mean_over
from isthmus.train.beginning import Begin, Plain, Stage
from isthmus.train.chunked import Reread, TwoPass
from isthmus.train.meters import Meters
from isthmus.train.schedule import Schedule
from isthmus.train.tracking import JsonLines, Reporter

_DROPOUT = text_identity("dropout of a micro-batch")


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

    def epoch(self, number: int) -> int:
        """The epoch of the rows of step `number`, counted from 0."""
        return number * self.accumulation // self.batches_per_epoch

    def rate(self, number: int) -> float:
        """The learning rate of step `number`, as a share of its peak."""
        epochs = self.epoch(self.steps - 1) + 1 if self.cosine_by_epoch else None
        schedule = Schedule(self.steps, self.warmup, self.warmup_from, self.lowest, epochs)
        return schedule.share(number, self.epoch(number))


@dataclass(frozen=True)
class Hooks:
    """What the loop calls and does not know: evaluation (figures to log), how they are told in a line, and saving."""

    evaluate: Callable[[], dict[str, Any]]
    describe: Callable[[Mapping[str, Any]], str]
    save: Callable[[int], None]
    log: JsonLines
    reporter: Reporter


class Trainer:
    """Trains a stage's bridge; everything frozen stays outside the optimizer."""

    def __init__(
        self,
        stage: nn.Module,
        optimizer: torch.optim.AdamW,
        accelerator: Accelerator,
        plan: Plan,
        *,
        reread: Reread | None = None,
    ) -> None:
        """With `reread`, a stage 1's micro-batches of a step are one contrastive batch (`train/chunked.py`)."""
        self.plan, self.accelerator, self.raw_optimizer = plan, accelerator, optimizer
        self.begin: Begin = Plain(cast(Stage, stage))
        if reread is not None:
            self.begin = TwoPass(cast(Stage1, stage), reread, accelerator.autocast)
        self.stage, self.optimizer = accelerator.prepare(stage, optimizer)
        self.schedule = LambdaLR(optimizer, plan.rate)
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.meters = Meters()
        self.skipped = torch.zeros((), device=accelerator.device)
        self._skipped_before = 0

    def run(self, batches: Iterable[Batch], hooks: Hooks) -> dict[str, Any]:
        """Take every step of the plan, logging, evaluating and saving on the way; returns the last evaluation."""
        figures: dict[str, Any] = {}
        stream, begun, logged = iter(batches), time.monotonic(), 0
        for number in range(1, self.plan.steps + 1):
            self.stage.train()
            norm = self.step(self._micro_batches(stream), number - 1)
            hooks.reporter.advance(number)
            if _due(number, self.plan.log_every, self.plan.steps):
                norm_now = float(norm)  # waits for the device, so that the clock tells the truth
                self._log(number, hooks, norm_now, (time.monotonic() - begun) / (number - logged))
                self._stop_if_all_skipped(number - logged, number)
                begun, logged = time.monotonic(), number
            paused = time.monotonic()
            if _due(number, self.plan.save_every, self.plan.steps):
                hooks.save(number)  # first: whatever stops the evaluation takes nothing away
            if _due(number, self.plan.evaluate_every, self.plan.steps):
                self.stage.eval()
                figures = hooks.evaluate()
                if figures:
                    hooks.reporter.say(f"held-out pictures, step {number}: {hooks.describe(figures)}")
                hooks.log.write({"step": number, "evaluation": {k: v for k, v in figures.items() if k != "captions"}})
            begun += time.monotonic() - paused
        return figures

    def step(self, batches: Iterable[Batch], number: int) -> Tensor:
        """One optimizer step on its micro-batches; returns the gradient's norm before clipping."""
        begun = self.begin(batches, self._keys(number), partial(self._seed, number))
        weights = self._weights(begun.counts)
        for position, given in enumerate(begun.given(weights)):
            self._seed(number, position)
            with self._only_last_reduces(position, len(begun.counts)):
                losses = self.stage(*given)
                total = sum(mean_over(term.sum, weights[name]) for name, term in losses)
                self.accelerator.backward(total * distributed.world_size())
            self.meters.add({name: term.sum for name, term in losses}, {n: t.weight for n, t in losses})
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.plan.clip)
        self._skip_if_not_finite(norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        return norm

    def _seed(self, number: int, position: int) -> None:
        """Set what dropout draws in a micro-batch."""
        torch.manual_seed(int(hash64(self.plan.seed, _DROPOUT, number, position, distributed.rank())))

    def _weights(self, counts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """What each term is divided by: the weight over all micro-batches and, unless told otherwise, all ranks."""
        counted: dict[str, Tensor] = {}
        for weights in counts:
            for name, weight in weights.items():
                counted[name] = counted.get(name, 0) + weight
        if self.plan.per_rank_mean:
            return {name: weight * distributed.world_size() for name, weight in counted.items()}
        return distributed.reduce_sums(counted)

    def _skip_if_not_finite(self, norm: Tensor) -> None:
        """Tell the fused optimizer, on the device, to leave everything as it is when the gradient is not finite."""
        broken = (~torch.isfinite(norm)).float()
        self.raw_optimizer.found_inf = broken  # type: ignore[attr-defined]  # read by torch's fused step
        self.skipped += broken

    def _keys(self, number: int) -> Step:
        return Step(self.plan.seed, self.plan.epoch(number), number / self.plan.steps)

    def _micro_batches(self, stream: Iterator[Batch]) -> Iterator[Batch]:
        return (batch.to(self.accelerator.device) for batch in islice(stream, self.plan.accumulation))

    def _only_last_reduces(self, position: int, count: int) -> Any:
        if position == count - 1:
            return nullcontext()
        return self.accelerator.no_sync(self.stage)

    def _log(self, number: int, hooks: Hooks, norm: float, seconds: float) -> None:
        means = self.meters.read()
        record = {"step": number, **means, "gradient_norm": norm, "lr": self.schedule.get_last_lr()[0]}
        hooks.log.write({**record, "skipped": int(self.skipped), "seconds_per_step": seconds})
        figures = "  ".join(f"{name} {mean:.3f}" for name, mean in means.items())
        hooks.reporter.advance(number, f"{figures}  {seconds:.2f} s/step")

    def _stop_if_all_skipped(self, steps: int, number: int) -> None:
        """End a run that no longer learns: none of the steps since the last line of the log had a finite gradient."""
        skipped, self._skipped_before = int(self.skipped) - self._skipped_before, int(self.skipped)
        if skipped == steps:
            raise UserError(
                f"the last {steps} steps up to step {number} were skipped, since no gradient was finite; lower "
                "train.lr or look for broken pictures; the last saved bridge is untouched"
            )


def _due(number: int, every: int | None, steps: int) -> bool:
    return number == steps or (every is not None and number % every == 0)

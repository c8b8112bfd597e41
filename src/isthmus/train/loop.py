"""The training loop: one optimizer step, and what happens every so many of them.

Weights of all loss terms are counted over ranks and micro-batches before the step's first backward, so that
unequal ranks and accumulation never shift a loss (DESIGN §3). A step whose gradient is not finite is skipped on the
device, without a sync, and counted in the log.

Between steps all ranks agree on what one of them wishes: to end, to save, or that it cannot go on. So they leave after
the same step, and what is saved is whole.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from signal import SIGTERM
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from isthmus import distributed
from isthmus.errors import UserError
from isthmus.fingerprint import text_identity
from isthmus.randomness import hash64
from isthmus.records import Batch, Losses, Step, Term, mean_over
from isthmus.train.beginning import Held, Stage
from isthmus.train.chunked import Reread, taking
from isthmus.train.hooks import Hooks
from isthmus.train.meters import Meters, Pace
from isthmus.train.plan import Plan
from isthmus.train.skips import Skips
from isthmus.train.stopping import Stopped, Stopping
from isthmus.train.tracking import step_pace

_DROPOUT = text_identity("dropout of a micro-batch")
_END, _FAILED, _SAVE = 1, 2, 4
"""What a rank may wish between two steps."""
_Found = Held | dict[str, Any] | Exception | None


class Trainer:
    """Trains a stage's bridge; everything frozen stays outside the optimizer.

    `done` counts the optimizer steps that were taken, and `scored` says up to which of them the bridge was evaluated.
    """

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
        self.bare = cast(Stage, stage)
        self.take = taking(self.bare, reread, accelerator.autocast)
        self.stage, self.optimizer = accelerator.prepare(stage, optimizer)
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        self.meters, self.skips = Meters(), Skips()
        self.done = self.scored = self._pairs = 0
        self._saved_at = time.monotonic()
        self._pace = Pace(0, self._saved_at)

    def run(self, batches: Iterable[Batch], hooks: Hooks, stopping: Stopping | None = None) -> dict[str, Any]:
        """Take the steps that are left, on batches that start there; returns the last evaluation.

        Raises `Stopped` where `stopping` heard that it should end: after the step in progress, and all is saved.
        What keeps this rank from going on, such as a loading worker that died, is raised when the others know, and
        what was done is saved first.
        """
        stopping, stream = stopping or Stopping(), iter(batches)
        figures: dict[str, Any] = {}
        self._pace = Pace(self.done, time.monotonic())
        while True:
            with self._pace.paused():
                found: _Found = self._evaluate_if_due(hooks, stopping)
            if isinstance(found, dict):
                figures = found
            if self.done < self.plan.steps and not isinstance(found, Exception):
                found = self._fetch(stream, stopping)
            self._agree(found if isinstance(found, Exception) else None, stopping, hooks)
            if self.done == self.plan.steps:
                return figures
            norm = self._step(cast(Held, found), self.done, stopping)
            if norm is not None:
                self.done += 1
                self._after_step(norm, hooks)

    def _fetch(self, stream: Iterator[Batch], stopping: Stopping) -> Held | Exception | None:
        """The next step's micro-batches; or why there are none; None where the run was asked to end meanwhile."""
        self.stage.train()
        try:
            with stopping.interruptible():
                batches = (next(stream).to(self.accelerator.device) for _ in range(self.plan.accumulation))
                return self.take(batches, partial(self._seed, self.done))
        except Stopped:
            return None
        except Exception as problem:  # whatever it is, what was done is saved before it is raised
            # a signal to a whole process group ends the loading workers too: that is no fault of theirs
            return problem if stopping.asked is None else None

    def _agree(self, problem: Exception | None, stopping: Stopping, hooks: Hooks) -> None:
        """Do what a rank wishes, on all of them: save, or save and end."""
        wishes = _END * (stopping.asked is not None) | _FAILED * (problem is not None) | _SAVE * self._has_waited()
        wishes = distributed.agree(wishes)
        if wishes:
            self._save(hooks)
        if problem is not None:
            raise problem
        if wishes & _FAILED:
            raise UserError(
                f"another process could not go on after step {self.done}, and its own line says why; what was done is "
                "saved, and the same command goes on from there"
            )
        if wishes & _END:
            raise Stopped(stopping.asked or SIGTERM, f"after step {self.done} of {self.plan.steps}")

    def _has_waited(self) -> bool:
        """Whether it is time to save again; the first process's clock decides."""
        wait, passed = self.plan.save_seconds, time.monotonic() - self._saved_at
        return wait is not None and distributed.rank() == 0 and passed > wait

    def _evaluate_if_due(self, hooks: Hooks, stopping: Stopping) -> dict[str, Any] | Exception | None:
        """Score the bridge where it is time to; or why that failed; None where not, or asked to end meanwhile."""
        if self.scored == self.done or not _due(self.done, self.plan.evaluate_every, self.plan.steps):
            return None
        self.stage.eval()
        try:
            # computed together, it is left by none alone: the others would wait inside of it
            with nullcontext() if self.plan.together else stopping.interruptible(), hooks.reporter.doing("evaluating"):
                figures = hooks.evaluate()
            self._tell(figures, hooks)
        except Stopped:
            return None
        except Exception as problem:  # raised when what was done is saved
            if self.plan.together:
                raise
            return problem
        return figures

    def _tell(self, figures: dict[str, Any], hooks: Hooks) -> None:
        self.scored = self.done
        if figures:
            hooks.reporter.say(f"held-out pictures, step {self.done}: {hooks.describe(figures)}")
        hooks.log.write({"step": self.done, "evaluation": {k: v for k, v in figures.items() if k != "captions"}})
        hooks.scored(self.done, figures)

    def _after_step(self, norm: Tensor, hooks: Hooks) -> None:
        hooks.reporter.advance(self.done)
        if _due(self.done, self.plan.log_every, self.plan.steps):
            norm_now = float(norm)  # waits for the device, so that the clock tells the truth
            self._log(hooks, norm_now, self._pace.read(self.done))
        if _due(self.done, self.plan.save_every, self.plan.steps):
            self._save(hooks)

    def _save(self, hooks: Hooks) -> None:
        with self._pace.paused(), hooks.reporter.doing("saving"):
            hooks.save(self.done)
        self._saved_at = time.monotonic()

    def step(self, batches: Iterable[Batch], number: int) -> Tensor:
        """One optimizer step on its micro-batches; returns the gradient's norm before clipping."""
        norm = self._step(self.take(batches, partial(self._seed, number)), number, Stopping())
        assert norm is not None  # nobody asks it to stop
        return norm

    def _step(self, held: Held, number: int, stopping: Stopping) -> Tensor | None:
        """The same; None where `stopping` heard a wish to end between micro-batches, whose gradient is dropped then.

        With several processes the others wait for the step, and it is taken.
        """
        begun = held.begin(self._keys(number))
        weights = self._weights(begun.counts)
        self._pairs = sum(map(len, held.batches)) * distributed.world_size()
        self._set_rate(number)
        taken: list[Losses] = []
        for position, given in enumerate(begun.given(weights)):
            if stopping.asked and distributed.world_size() == 1:
                self.optimizer.zero_grad()
                return None
            self._seed(number, position)
            with self._only_last_reduces(position, len(begun.counts)):
                losses = self.stage(*given)
                total = sum(mean_over(term.sum, weights[name]) for name, term in losses)
                self.accelerator.backward(total * distributed.world_size())
            taken.append(Losses({name: Term(term.sum.detach(), term.weight) for name, term in losses}))
        for losses in taken:
            self.meters.add({name: term.sum for name, term in losses}, {n: t.weight for n, t in losses})
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.plan.clip)
        # read by torch's fused step, on the device: everything stays as it is where the gradient is not finite
        self.raw_optimizer.found_inf = self.skips.look(norm, number + 1, held.batches)  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def _set_rate(self, number: int) -> None:
        share = self.plan.rate(number)
        for group, peak in zip(self.raw_optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * share

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

    def _keys(self, number: int) -> Step:
        return Step(self.plan.seed, self.plan.epoch(number), number / self.plan.steps)

    def _only_last_reduces(self, position: int, count: int) -> Any:
        if position == count - 1:
            return nullcontext()
        return self.accelerator.no_sync(self.stage)

    def _log(self, hooks: Hooks, norm: float, seconds: float) -> None:
        means = self.meters.read()
        for record in self.skips.read():
            hooks.log.write(record)
        figures = "  ".join(f"{name} {mean:.3f}" for name, mean in means.items())
        lr = self._peaks[0] * self.plan.rate(self.done - 1)
        record = {"step": self.done, **means, "gradient_norm": norm, "lr": lr, "skipped": self.skips.total}
        hooks.log.write({**record, "seconds_per_step": seconds, "pairs_per_second": self._pairs / seconds})
        hooks.reporter.advance(self.done, f"{figures}  {step_pace(seconds, self._pairs)}")
        if self.skips.in_a_row >= self.plan.stop_after_skipped:
            raise UserError(
                f"the last {self.skips.in_a_row} steps up to step {self.done} were skipped, since no gradient was "
                "finite; lower train.lr or look for broken pictures (the log names the rows of each); what was saved "
                "before is untouched"
            )


def _due(number: int, every: int | None, steps: int) -> bool:
    return number > 0 and (number == steps or (every is not None and number % every == 0))

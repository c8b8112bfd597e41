"""How a step begins: all of its micro-batches are known, and what their losses weigh, before anything is trained."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from isthmus.records import Batch, Losses, Step

Seed = Callable[[int], None]
"""Sets what dropout draws in the micro-batch of a step that has this number."""


@runtime_checkable
class Stage(Protocol):
    """What is trained: a loss, and the loss's weights before it is computed."""

    def __call__(self, batch: Batch, step: Step) -> Losses:
        """The terms of a batch, before division."""

    def count(self, batch: Batch, step: Step) -> Mapping[str, Tensor]:
        """The weights of a batch's terms at this step."""


@runtime_checkable
class Begun(Protocol):
    """A step before its first backward pass; `counts` are the weights of each micro-batch's terms."""

    counts: Sequence[Mapping[str, Tensor]]

    def given(self, weights: Mapping[str, Tensor]) -> Iterable[tuple[Any, ...]]:
        """What the stage is called with, for each micro-batch; `weights` are what this rank's terms are divided by."""


Begin = Callable[[Iterable[Batch], Step, Seed], Begun]


class Plain:
    """Begins a step whose micro-batches know nothing of each other."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __call__(self, batches: Iterable[Batch], step: Step, seed: Seed) -> Begun:
        """Hold them in memory."""
        held = list(batches)
        return _Held(held, step, [self._stage.count(batch, step) for batch in held])


@dataclass
class _Held:
    batches: Sequence[Batch]
    step: Step
    counts: Sequence[Mapping[str, Tensor]]

    def given(self, weights: Mapping[str, Tensor]) -> Iterable[tuple[Any, ...]]:
        return ((batch, self.step) for batch in self.batches)

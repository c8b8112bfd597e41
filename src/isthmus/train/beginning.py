"""How a step begins: its micro-batches are taken, then what their losses weigh is known, then they are trained on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from isthmus.records import Batch, Losses, Step

Seed = Callable[[int], None]
"""Sets what dropout draws in the micro-batch of a step that has this number."""


@runtime_checkable
class Stage(Protocol):
    """What is trained: a module with a bridge, a loss, and the loss's weights before it is computed."""

    bridge: nn.Module

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


@runtime_checkable
class Held(Protocol):
    """A step's micro-batches on this rank; they may be without their patches."""

    batches: list[Batch]

    def begin(self, step: Step) -> Begun:
        """Count, and whatever else all ranks do together."""


Take = Callable[[Iterable[Batch], Seed], Held]
"""Takes a step's micro-batches as they come; asks nothing of other ranks."""


class Plain:
    """Takes micro-batches that know nothing of each other."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __call__(self, batches: Iterable[Batch], seed: Seed) -> Held:
        """Hold them in memory."""
        return _Held(self._stage, list(batches))


@dataclass
class _Held:
    stage: Stage
    batches: list[Batch]

    def begin(self, step: Step) -> Begun:
        counts = [self.stage.count(batch, step) for batch in self.batches]
        return _Begun(counts, [(batch, step) for batch in self.batches])


@dataclass
class _Begun:
    counts: Sequence[Mapping[str, Tensor]]
    calls: Sequence[tuple[Any, ...]]

    def given(self, weights: Mapping[str, Tensor]) -> Iterable[tuple[Any, ...]]:
        return self.calls

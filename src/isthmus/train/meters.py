"""Running means of loss terms over all ranks, each by its own weight, kept on the device until read; and the pace."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isthmus.distributed import reduce_sum
from isthmus.records import mean_over


class Meters:
    """Sums and weights since the last reading."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}

    def add(self, sums: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """Count one step's terms; one that is not finite makes its mean so, for nobody may overlook it."""
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
            self._weights[name] = self._weights.get(name, 0) + weights[name].detach()

    def read(self) -> dict[str, float]:
        """The mean of each term since the last reading; starts anew."""
        means = {
            name: float(mean_over(reduce_sum(total), reduce_sum(self._weights[name])))
            for name, total in self._sums.items()
        }
        self._sums, self._weights = {}, {}
        return means

    def state(self) -> dict[str, Any]:
        """This rank's sums and weights as JSON, exact: a number of fp64 holds each."""
        return {
            name: {"sum": _exact(total), "weight": _exact(self._weights[name])} for name, total in self._sums.items()
        }

    def load(self, states: list[Mapping[str, Any]], device: torch.device) -> None:
        """Go on from sums that were saved, added up where those of several ranks come to this one."""
        self._sums, self._weights = {}, {}
        for state in states:
            sums = {name: _tensor(one["sum"], device) for name, one in state.items()}
            self.add(sums, {name: _tensor(one["weight"], device) for name, one in state.items()})


def _exact(value: Tensor) -> list[Any]:
    return [float(value), str(value.dtype).removeprefix("torch.")]


def _tensor(saved: list[Any], device: torch.device) -> Tensor:
    value, dtype = saved
    return torch.tensor(value, dtype=getattr(torch, dtype), device=device)


@dataclass
class Pace:
    """Seconds per step since the last line, without those that evaluating and saving took."""

    step: int
    begun: float

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that does not count."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.begun += time.monotonic() - begun

    def read(self, step: int) -> float:
        """Seconds per step up to now; starts anew."""
        now = time.monotonic()
        seconds = (now - self.begun) / (step - self.step)
        self.step, self.begun = step, now
        return seconds

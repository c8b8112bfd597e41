"""Running means of loss terms over all ranks, each by its own weight, kept on the device until they are read."""

from collections.abc import Mapping

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
        """Count one step's terms; one that is not finite counts neither above nor below."""
        for name, value in sums.items():
            finite = torch.isfinite(value)
            self._sums[name] = self._sums.get(name, 0) + torch.where(finite, value.detach(), 0)
            self._weights[name] = self._weights.get(name, 0) + torch.where(finite, weights[name], 0)

    def read(self) -> dict[str, float]:
        """The mean of each term since the last reading; starts anew."""
        means = {
            name: float(mean_over(reduce_sum(total), reduce_sum(self._weights[name])))
            for name, total in self._sums.items()
        }
        self._sums, self._weights = {}, {}
        return means

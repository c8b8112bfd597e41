"""Steps whose gradient is not finite: left out by all ranks together, on the device, counted, and told with their rows.

The gradient is reduced over ranks before it is looked at, so that what is broken on one rank is broken on all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isthmus import distributed
from isthmus.records import Batch


@dataclass(frozen=True)
class _Taken:
    """A step since the last reading: whether it was left out, and the rows that it saw on this rank."""

    number: int
    broken: Bool[Tensor, ""]
    rows: tuple[Int[Tensor, " _"], ...]


@dataclass
class Skips:
    """How many steps were left out, in all and in a row; read at intervals, so that no step waits for the device."""

    total: int = 0
    in_a_row: int = 0
    _taken: list[_Taken] = field(default_factory=list)
    _untold: list[dict[str, Any]] = field(default_factory=list)

    def look(self, norm: Float[Tensor, ""], number: int, batches: list[Batch]) -> Float[Tensor, ""]:
        """Note step `number` by its gradient's norm; returns 1 where it must be left out, else 0."""
        broken = ~torch.isfinite(norm)
        self._taken.append(_Taken(number, broken, tuple(batch.index for batch in batches)))
        return broken.float()

    def read(self) -> list[dict[str, Any]]:
        """Count what was noted; returns a record of each step that was left out since the last reading.

        Its rows are those of all ranks, by their place in the source.
        """
        self._count()
        records, self._untold = self._untold, []
        return records

    def state(self) -> dict[str, Any]:
        """All of it as JSON, the records that were not read yet among it."""
        self._count()
        return {"total": self.total, "in_a_row": self.in_a_row, "untold": list(self._untold)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        self.total, self.in_a_row, self._untold = state["total"], state["in_a_row"], list(state["untold"])

    def _count(self) -> None:
        for taken in self._taken:
            broken = bool(taken.broken)
            self.total, self.in_a_row = self.total + broken, (self.in_a_row + 1) * broken
            if broken:  # the same on all ranks, which all come here
                own = torch.cat(taken.rows).tolist()
                rows = [row for part in distributed.gather_objects(own) for row in part]
                self._untold.append({"step": taken.number, "skipped_rows": rows})
        self._taken = []

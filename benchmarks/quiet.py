"""Was the machine quiet? What other processes used of its cores while a step ran.

A step beside a busy neighbour is not a noisy figure but a worthless one: threads that wait for each other spin.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_IDLE = (3, 4)  # idle and waiting for a disk
_COUNTED = 8  # the columns after it, guests, are counted in the first two


class Watch:
    """Begin to watch; `others` says what share of all cores others than the processes `own` have used since."""

    def __init__(self, own: Sequence[int]) -> None:
        self._own = own
        self._begun, self._busy, self._used = time.monotonic(), _busy(), self._by_own()

    def others(self) -> float:
        """The share of all cores that other processes used, 0 to 1."""
        elapsed = time.monotonic() - self._begun
        foreign = (_busy() - self._busy) - (self._by_own() - self._used)
        return max(0.0, foreign) / (elapsed * (os.cpu_count() or 1))

    def _by_own(self) -> float:
        return sum(map(_used_by, self._own))


def _busy() -> float:
    """Seconds that all cores have worked since the machine started."""
    first = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    columns = [int(column) for column in first.split()[1 : 1 + _COUNTED]]
    return sum(column for place, column in enumerate(columns) if place not in _IDLE) * _TICK


def _used_by(process: int) -> float:
    """Seconds that a process has worked, its threads and its own processes with it, those that ended too."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()
    except FileNotFoundError:  # it ended just now
        return 0.0
    return sum(int(column) for column in after_name[11:15]) * _TICK + sum(_used_by(int(child)) for child in children)

"""What a quickstart is asked for, as it is typed in. No torch here: a slip is told at once."""

import re
from dataclasses import dataclass

from isthmus.errors import ConfigError

_UNITS = {"s": 1, "m": 60, "h": 3600}
_SHORT = 30 * 60


@dataclass(frozen=True)
class Work:
    """What was asked for: a budget in seconds, or fixed stage-1 and stage-2 steps."""

    budget: float | None
    steps: tuple[int, int] | None

    @property
    def views(self) -> int:
        """Views of each picture: in a short budget steps are a better use of the time that a second one takes."""
        return 1 if self.budget is not None and self.budget < _SHORT else 2

    def describe(self) -> str:
        """For the plan and the report."""
        if self.steps is not None:
            return f"{self.steps[0]} + {self.steps[1]} steps"
        assert self.budget is not None
        return f"{self.budget / 60:g} minutes"


def parse_work(budget: str, steps: str | None) -> Work:
    """Read `15m` and `360+240`; raises `ConfigError` for another form."""
    if steps is not None:
        match = re.fullmatch(r"([1-9][0-9]*)\+([1-9][0-9]*)", steps)
        if match is None:
            raise ConfigError(f"--steps is {steps!r}; write stage-1 and stage-2 steps, for example 360+240")
        return Work(None, (int(match[1]), int(match[2])))
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh])", budget)
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"--budget is {budget!r}; write a time such as 15m, 40m or 2h")
    return Work(float(match[1]) * _UNITS[match[2]], None)

"""What the training loop calls and does not know."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from isthmus.train.tracking import JsonLines, Reporter


@dataclass(frozen=True)
class Hooks:
    """What the loop calls and does not know.

    `evaluate` gives figures to log, `describe` tells them in a line, `scored` is given them with the step. `save` keeps
    the run as it is after a step; all ranks call it together.
    """

    evaluate: Callable[[], dict[str, Any]]
    describe: Callable[[Mapping[str, Any]], str]
    save: Callable[[int], None]
    scored: Callable[[int, Mapping[str, Any]], None]
    log: JsonLines
    reporter: Reporter

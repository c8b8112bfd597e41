"""Trackers beside the log: TensorBoard, Weights & Biases and MLflow, through Accelerate, on the first process only.

They are told what the log is told, under the same names, after it. What they lack or lose is always in the log.
"""

import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from isthmus.errors import ConfigError, UserError
from isthmus.train.tracker_kinds import KINDS, About, Holds
from isthmus.train.tracking import Record, unbroken

Figures = dict[str, float]


@dataclass(frozen=True)
class Before:
    """What there is of a run that is resumed: the trackers' state in its checkpoint, the checkpoint's step, its log."""

    state: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    step: int = 0
    records: Sequence[Record] = ()

    def figures(self) -> Iterable[tuple[int, Figures]]:
        """What was logged up to the checkpoint, step by step."""
        for record in unbroken(self.records):
            if 0 < record.get("step", 0) <= self.step:
                yield record["step"], numbers(record)

    def told(self) -> dict[str, int]:
        """The last step at which each figure was logged, up to the checkpoint."""
        last: dict[str, int] = {}
        for step, figures in self.figures():
            last |= dict.fromkeys(figures, step)
        return last


def tracker_options(names: Sequence[str], folder: Path) -> dict[str, Any]:
    """What an `Accelerator` must be made with, so that `open_trackers` finds its trackers; `folder` is the run's.

    Raises `ConfigError` for one that is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"`train.trackers` asks for {name}, which is not installed; pip install {name}, or all three with "
                "pip install 'isthmus[trackers]'"
            )
    project = ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "tensorboard"))
    return {"log_with": list(names), "project_config": project} if names else {}


def open_trackers(
    accelerator: Accelerator, about: About, *, before: Before | None = None, say: Callable[[str], None]
) -> "Trackers":
    """Start an accelerator's trackers, or go on with the runs of `before`; on other ranks than 0 there are none.

    `say` is given a line for people where a tracker stops taking figures. Raises `UserError` where one cannot start.
    """
    before = before or Before()
    names = [str(name) for name in accelerator.log_with] if accelerator.is_main_process else []
    trackers = Trackers(accelerator, names, before, say)
    options = {name: KINDS[name].options(about, before.state.get(name), before.step) for name in names}
    try:
        if names:
            about.folder.mkdir(parents=True, exist_ok=True)
            accelerator.init_trackers(about.project, init_kwargs=options)
            trackers.begin(flat(about.config))
    except Exception as problem:  # each has exceptions of its own
        raise UserError(
            f"a tracker of `train.trackers` ({', '.join(names)}) cannot be started: {_first_line(problem)}; mend "
            "that, or leave it out"
        ) from problem
    return trackers


class Trackers:
    """The trackers of a run. One that fails never ends the run: it is told once, and tried again at the next figures.

    Steps that a resumed run takes again stand once in each: in TensorBoard as they were taken last, in the others as
    they were taken first, if these have them: what a kill or a lost connection kept from them is told then.
    """

    def __init__(
        self, accelerator: Accelerator, names: Sequence[str], before: Before, say: Callable[[str], None]
    ) -> None:
        self._accelerator, self._names, self._before, self._say = accelerator, names, before, say
        self._holds: dict[str, Holds] = {}
        self._failing: set[str] = set()

    def begin(self, config: dict[str, Any]) -> None:
        """Tell each tracker what it lacks: the configuration, and what was logged up to the checkpoint."""
        for name in self._names:
            tracker, kind, known = self._accelerator.get_tracker(name), KINDS[name], name in self._before.state
            if not known or kind.takes_configuration:
                tracker.store_init_configuration(_named(name, config))
            if known:
                self._holds[name] = kind.holds(tracker.tracker, self._before.told())
            for step, figures in self._before.figures():
                self._tell(name, figures, step)

    def write(self, record: Record) -> None:
        """Pass on a record's numbers, if it is one of a step; NaN is passed on as NaN."""
        figures = numbers(record)
        if "step" in record and figures:
            for name in self._names:
                self._tell(name, figures, record["step"])

    def state(self) -> dict[str, dict[str, Any]]:
        """What finds the runs again, as JSON for a checkpoint, by the tracker's name."""
        found = {}
        for name in self._names:
            try:
                found[name] = KINDS[name].state(self._accelerator.get_tracker(name, unwrap=True))
            except Exception as problem:  # a resumed run will begin a new one there
                self._say(f"the tracker {name} does not say which run it is in: {_first_line(problem)}")
        return found

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, _: TracebackType | None
    ) -> None:
        for name in self._names:
            tracker = self._accelerator.get_tracker(name)
            try:
                if kind is None:
                    tracker.finish()
                else:
                    KINDS[name].fail(tracker.tracker, stopped=not issubclass(kind, Exception))
            except Exception as failure:  # the run's own end matters more
                self._say(f"the tracker {name} could not be closed: {_first_line(failure)}")

    def _tell(self, name: str, figures: Figures, step: int) -> None:
        holds = self._holds.get(name, _holds_nothing)
        new = {figure: value for figure, value in _named(name, figures).items() if not holds(figure, step)}
        if not new:
            return
        try:
            self._accelerator.get_tracker(name).log(new, step=step)
            self._failing.discard(name)
        except Exception as problem:  # each has exceptions of its own, and the log has the figures
            if name not in self._failing:
                self._say(f"step {step}: the tracker {name} takes no figures, the log does: {_first_line(problem)}")
            self._failing.add(name)


def numbers(record: Record) -> Figures:
    """The numbers of a record by name, those within others as `evaluation/loss/gap`; lists and words have no curve."""
    kept = {name: value for name, value in record.items() if name not in ("time", "step")}
    return {
        name: float(value)
        for name, value in flat(kept, "/").items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def flat(content: Mapping[str, Any], between: str = ".") -> dict[str, Any]:
    """Mappings within mappings as one, `train.lr`; a list is its JSON."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            found |= {f"{name}{between}{inner}": deep for inner, deep in flat(value, between).items()}
        else:
            found[name] = json.dumps(value) if isinstance(value, list | tuple) else value
    return found


def _holds_nothing(_figure: str, _step: int) -> bool:
    return False


def _named(tracker: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {KINDS[tracker].name(name): value for name, value in values.items()}


def _first_line(problem: Exception) -> str:
    return next(iter(str(problem).splitlines()), type(problem).__name__).rstrip(".")

"""The run's log: one JSON object a line, and progress for people."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from isthmus.errors import UserError

Record = Mapping[str, Any]


class JsonLines:
    """Append records to a file, each flushed as it is written, so that a killed run keeps all of them.

    A line that a kill cut short stays, and the next record stands on a line of its own. `also` is told every record
    once it is in the file.
    """

    def __init__(self, path: Path, also: Callable[[Record], None] | None = None) -> None:
        self._path, self._also = path, also
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            cut = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")
            self._file: TextIO = path.open("a")
            if cut:
                self._file.write("\n")
        except OSError as problem:
            raise UserError(f"{path} cannot be written ({problem.strerror}); choose another output") from problem

    def write(self, record: Record) -> None:
        """Write one record with the time (seconds since 1970); raises `UserError` where the disk is full."""
        self._append(record)
        if self._also is not None:
            self._also(record)

    def _append(self, record: Record) -> None:
        try:
            self._file.write(json.dumps({"time": round(time.time(), 3), **record}) + "\n")
            self._file.flush()
        except OSError as problem:
            raise UserError(
                f"{self._path} cannot be written ({problem.strerror}); what was saved before is kept: free space, and "
                "train again"
            ) from problem

    def close(self) -> None:
        """Close the file; what could not be written was told when it was."""
        with suppress(OSError):
            self._file.close()

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def last_run(path: Path) -> list[dict[str, Any]]:
    """Every record of a log since its last `start`, in order; lines that a kill cut short are left out."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    starts = [number for number, record in enumerate(records) if "start" in record]
    return records[starts[-1] :] if starts else records


def unbroken(records: Iterable[Record]) -> list[Record]:
    """A run's records as if it had never been stopped.

    A `resume` record names the step of its checkpoint. What was logged before it of later steps is left out, since
    those steps were taken again and stand after it; so does an evaluation that is made again at that very step.
    """
    kept: dict[object, Record] = {}
    for number, record in enumerate(records):
        if "resume" in record:
            step = record["resume"]["step"]
            kept = {place: one for place, one in kept.items() if one.get("step", 0) <= step}
        kind = next((name for name in ("evaluation", "skipped_rows") if name in record), "losses")
        place = (record["step"], kind) if "step" in record else number
        kept.pop(place, None)
        kept[place] = record
    return list(kept.values())


def in_words(seconds: float) -> str:
    """A duration as people say it: `45 s`, `24 min`, `3 h 05 min`, `2 d 4 h`."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h"


def step_pace(seconds: float, pairs: int) -> str:
    """How fast steps are: seconds of one, and image-text pairs a second over all ranks."""
    rate = pairs / seconds if seconds > 0 else float("inf")
    return f"{seconds:.2f} s/step, {rate:,.{0 if rate >= 10 else 1}f} pairs/s"


class Reporter:
    """Progress with time left: a bar on a terminal, plain lines elsewhere, silence on other ranks than 0.

    Work that was done before, up to `start`, counts for how far it is and not for how fast it goes; nor does what is
    said or done before the first of the work.
    """

    def __init__(self, title: str, total: int, *, start: int = 0, silent: bool = False) -> None:
        self._title, self._total, self._silent = title, total, silent
        self._begun, self._start, self._done = time.monotonic(), start, start
        self._console = Console(file=sys.stderr)
        self._bar: Progress | None = None
        if self._console.is_terminal and not silent:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total} {task.fields[figures]}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
            )
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task(title, total=total, completed=start, figures="", left="")

    def __enter__(self) -> "Reporter":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, done: int, figures: str | None = None) -> None:
        """Say how far the work is; plain output prints a line only where there are figures."""
        self._done = done
        if self._silent:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=done, left=self._left())
            if figures is not None:
                self._bar.update(self._task, figures=figures)
        elif figures is not None:
            self._plain("  ".join(filter(None, (self._place(), self._left(), figures))))

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Show what keeps the work waiting, such as an evaluation: beside the bar, or as a plain line at its start."""
        if self._bar is not None:
            self._bar.update(self._task, description=f"{self._title}, {what}", refresh=True)
        elif not self._silent:
            self._plain(f"{self._place()}  {what}")
        try:
            yield
        finally:
            self._wait_to_begin()
            if self._bar is not None:
                self._bar.update(self._task, description=self._title)

    def say(self, line: str) -> None:
        """Print a line above the progress."""
        self._wait_to_begin()
        if self._silent:
            return
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            self._plain(line)

    def _plain(self, line: str) -> None:
        """One line as it is: not wrapped, not coloured, brackets no markup."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def pace(self, done: int) -> float | None:
        """How much was done a second since the beginning; None where nothing was, or no time has passed."""
        passed = time.monotonic() - self._begun
        return (done - self._start) / passed if done > self._start and passed > 0 else None

    def _wait_to_begin(self) -> None:
        if self._done == self._start:
            self._begun = time.monotonic()

    def _place(self) -> str:
        return f"{self._title} {self._done}/{self._total}"

    def _left(self) -> str:
        passed, done = time.monotonic() - self._begun, self._done - self._start
        if done <= 0:
            return ""
        if self._done >= self._total:
            return f"took {in_words(passed)}"
        return f"{in_words(passed / done * (self._total - self._done))} left"


class StoreProgress:
    """Progress over pictures, of which the total is known only when it starts, with how many a second it is."""

    def __init__(self, title: str = "features") -> None:
        self._title = title
        self._reporter: Reporter | None = None
        self._printed = 0

    def __enter__(self) -> "StoreProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._reporter is not None:
            self._reporter.__exit__()

    def __call__(self, done: int, total: int) -> None:
        """Say that so many pictures of all are done."""
        if self._reporter is None:
            self._reporter = Reporter(self._title, total, start=done).__enter__()
        tenth, pace = 10 * done // max(1, total), self._reporter.pace(done)
        rate = "" if pace is None else f", {pace:.1f} a second"
        self._reporter.advance(done, f"{done} of {total} pictures{rate}" if tenth > self._printed else None)
        self._printed = max(self._printed, tenth)

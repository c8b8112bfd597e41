"""The run's log: one JSON object a line, and progress for people."""

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from isthmus.errors import UserError


class JsonLines:
    """Append records to a file, each flushed as it is written, so that a killed run keeps all of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = path.open("a")
        except OSError as problem:
            raise UserError(f"{path} cannot be written ({problem.strerror}); choose another output") from problem

    def write(self, record: dict[str, Any]) -> None:
        """Write one record with the time (seconds since 1970); raises `UserError` where the disk is full."""
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


class Reporter:
    """Progress with time left: a bar on a terminal, plain lines elsewhere, silence on other ranks than 0."""

    def __init__(self, title: str, total: int, *, start: int = 0, silent: bool = False) -> None:
        self._title, self._total, self._silent = title, total, silent
        self._begun, self._start = time.monotonic(), start
        self._console = Console(file=sys.stderr)
        self._bar: Progress | None = None
        if self._console.is_terminal and not silent:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total} {task.fields[figures]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task(title, total=total, completed=start, figures="")

    def __enter__(self) -> "Reporter":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, done: int, figures: str | None = None) -> None:
        """Say how far the work is; plain output prints a line only where there are figures."""
        if self._silent:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
            if figures is not None:
                self._bar.update(self._task, figures=figures)
        elif figures is not None:
            self._plain(f"{self._title} {done}/{self._total}{self._left(done)}  {figures}")

    def say(self, line: str) -> None:
        """Print a line above the progress."""
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

    def _left(self, done: int) -> str:
        if done <= self._start:
            return ""
        seconds = (time.monotonic() - self._begun) / (done - self._start) * (self._total - done)
        return f"  {seconds / 60:.1f} min left"


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

"""A wish to end, from a signal, that is granted where nothing is lost.

A step in progress is finished, or, where it accumulates, left at the next micro-batch; waiting for data and
evaluation are left at once, since nothing that is saved changes there.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_SAME_WISH = 1.0
"""Seconds in which a second signal is the first one again: Ctrl-C reaches every process of a terminal, and a launcher
passes it on to those it started."""


class Stopped(BaseException):
    """The run was asked to end, and ends where nothing is lost; `number` is the signal's."""

    def __init__(self, number: int, where: str = "") -> None:
        super().__init__(where)
        self.number = number


class Stopping:
    """Hears SIGTERM, SIGINT and SIGUSR1 while its block runs; a second one, later, leaves at once."""

    def __init__(self) -> None:
        self.asked: int | None = None
        """The signal that was heard."""
        self._heard_at = 0.0
        self._interruptible = False
        self._before: dict[int, Any] = {}
        self._owner = os.getpid()

    def __enter__(self) -> "Stopping":
        self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A block that a signal may leave at once, by `Stopped`; one that was heard before leaves it here."""
        self._interruptible = True
        try:
            if self.asked is not None:
                raise Stopped(self.asked)
            yield
        finally:
            self._interruptible = False

    def _hear(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a forked child that has its own end
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self.asked is not None:
            if time.monotonic() - self._heard_at > _SAME_WISH:
                os._exit(130 if number == signal.SIGINT else 143)
            return
        self.asked, self._heard_at = number, time.monotonic()
        if self._interruptible:
            raise Stopped(number)

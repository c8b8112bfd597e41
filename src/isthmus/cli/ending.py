"""How a command ends: its exit code, and one line on stderr for what a user can mend."""

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import typer

from isthmus.errors import LostProcessError, UserError
from isthmus.train.stopping import Stopped

WRONG_INPUT = 2
SOME_BROKEN = 3
LOST = 4
INTERRUPTED = 130
CLOSED = 141
TERMINATED = 143

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

EXIT_CODES = """\b
Exit codes:
  0    done
  1    a fault of isthmus itself, with a traceback
  2    wrong input, told in one line
  3    done, but some pictures could not be read
  4    another process of the same run has died, hangs, or cannot be reached
  130  interrupted (Ctrl-C)
  141  what read the output has gone, as after `| head`
  143  terminated (SIGTERM or SIGUSR1)"""


class _Terminated(BaseException):
    """The process was asked to end."""


def run(app: typer.Typer) -> NoReturn:
    """Run the command line and end the process; without arguments the help is shown."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may hold what no encoding can
    try:
        with _termination_raises():
            code: int | None = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
            sys.stdout.flush()
    except BaseException as problem:
        _explain(problem)
    if code == INTERRUPTED:  # what typer makes of Ctrl-C
        _end("isthmus: interrupted; what was saved before is kept", INTERRUPTED)
    sys.exit(code or 0)


def _explain(problem: BaseException) -> NoReturn:
    """End with the line and the code of what a user can cause; raise anything else again."""
    if isinstance(problem, UserError):
        lost = isinstance(problem, LostProcessError)
        _end(f"isthmus: {problem}", LOST if lost else WRONG_INPUT, at_once=lost)
    if isinstance(problem, KeyboardInterrupt | typer.Abort | _Terminated | Stopped):
        _explain_end(problem)
    if hasattr(problem, "format_message"):
        _end(f"isthmus: {problem.format_message().rstrip('.')}. Try --help.", WRONG_INPUT)
    if isinstance(problem, SystemExit) and isinstance(problem.__context__, BrokenPipeError):
        problem = problem.__context__  # typer and rich make one of the other
    if isinstance(problem, BrokenPipeError) and _output_closed():
        _drop_output()
        sys.exit(CLOSED)
    if isinstance(problem, OSError) and problem.errno in _NO_ROOM and _output_full():
        _end(
            f"isthmus: the output cannot be written ({problem.strerror}); free space, or send it to another place",
            WRONG_INPUT,
        )
    raise problem


def _explain_end(problem: BaseException) -> NoReturn:
    """End as the signal says that was heard."""
    by_term = isinstance(problem, _Terminated) or (isinstance(problem, Stopped) and problem.number != signal.SIGINT)
    code = TERMINATED if by_term else INTERRUPTED
    where = f" {problem}" if isinstance(problem, Stopped) else "; what was saved before is kept"
    _end(f"isthmus: {'terminated' if by_term else 'interrupted'}{where}", code)


@contextmanager
def _termination_raises() -> Iterator[None]:
    """Let SIGTERM, and SIGUSR1 of schedulers, unwind this process as Ctrl-C does, so that scratch files go.

    Forked children end at once.
    """
    owner = os.getpid()

    def terminate(number: int, _: FrameType | None) -> None:
        if os.getpid() == owner:
            raise _Terminated
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = {number: signal.signal(number, terminate) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _output_closed() -> bool:
    """True where the reader of stdout has gone; rich has put the null device in its place by then."""
    output = select.poll()
    output.register(1, 0)
    gone = any(event & select.POLLERR for _, event in output.poll(0))
    return gone or os.fstat(1).st_rdev == Path(os.devnull).stat().st_rdev


def _output_full() -> bool:
    """True where stdout takes no byte more; a text that was too long for the buffer is not in it to try again."""
    try:
        sys.stdout.flush()
        os.write(1, b"\n")
    except OSError:
        return True
    return False


def _drop_output() -> None:
    """Send what is still buffered nowhere, without a complaint."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _end(line: str, code: int, *, at_once: bool = False) -> NoReturn:
    """Say the line and end; `at_once`: without what torch would tidy up, which may wait for a process that is lost."""
    try:
        sys.stdout.flush()
    except OSError:  # nobody can be given it any more, and the line below says what matters
        _drop_output()
    os.write(2, f"{line}\n".encode(errors="backslashreplace"))
    if at_once:
        os._exit(code)
    sys.exit(code)

"""Processes that prepare batches beside the training process, and what is told when one of them ends or hangs.

Left alone, torch raises for a dead worker wherever the main thread stands, in the middle of an optimizer step too
(reference: torch `utils/data/_utils/signal_handling.py`), names no row, and waits for ever for one that was frozen with
a batch in its hands. Here a thread asks torch for the next batch while the caller waits and looks after the workers,
which leave word of the row that they begin.
"""

import ctypes
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, fields, is_dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from isthmus.errors import WorkerError

_LOOK, _PATIENCE = 0.5, 1.0
"""Seconds between looks at workers that are waited for, and those that they get to leave by themselves."""
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux' prctl.h
_SHARED = Path("/dev/shm")
_END = object()


@dataclass(frozen=True)
class Workers:
    """Processes that prepare batches: 0 prepares in this one. `timeout` (seconds) ends a hung worker."""

    count: int = 0
    timeout: float = 300.0


ALONE = Workers()
"""Batches are prepared in this process."""


def begin(row: int) -> None:
    """Leave word, in a worker, of the row that it is about to load; elsewhere this does nothing."""
    worker = get_worker_info()
    if worker is not None and isinstance(worker.dataset, _Watched):
        worker.dataset.board[worker.id] = row


def prepared(
    rows: Dataset[Any],
    batches: Iterable[list[Any]],
    *,
    collate: Callable[[list[Any]], Any],
    workers: Workers,
    name: Callable[[int], str],
) -> Generator[Any, None, None]:
    """Yield the batches of rows with these keys, in order, collated; closing the generator ends the workers.

    `rows` say with `begin` which one they load, and `name` is what it goes by in messages. Raises `WorkerError` where a
    worker ended, hangs, or finds no shared memory, always from here and never while the caller does something else. No
    global generator is touched.
    """
    if not workers.count:
        yield from DataLoader(rows, batch_sampler=batches, collate_fn=collate, generator=torch.Generator())
        return
    board = RawArray("q", [-1] * workers.count)
    loader = DataLoader(
        _Watched(rows, board),
        batch_sampler=batches,
        collate_fn=_Shared(collate),
        num_workers=workers.count,
        worker_init_fn=_settle,
        generator=torch.Generator(),
    )
    at_work = _AtWork(loader, board, workers, name)
    try:
        yield from at_work
    finally:
        at_work.close()


class _Watched(Dataset[Any]):
    """Rows, and the board on which `begin` writes: memory that the main process shares, a number for each worker."""

    def __init__(self, rows: Dataset[Any], board: Any) -> None:
        self._rows = rows
        self.board = board

    def __getitem__(self, key: Any) -> Any:
        return self._rows[key]


def _settle(_: int) -> None:
    """Make this new worker at home: signals are the main process's to answer, and it ends when that one does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C comes to the whole group of processes
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if sys.platform == "linux":  # elsewhere torch's workers look after their parent between batches
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it ended before the line above
        os._exit(1)


@dataclass(frozen=True)
class _NoRoom:
    """What a worker sends in place of a batch for which it finds no shared memory."""

    why: str


@dataclass(frozen=True)
class _Shared:
    """Collate, and move the tensors into shared memory at once: torch's queue would lose a batch that finds no room."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, rows: list[Any]) -> Any:
        batch = self.collate(rows)
        try:
            for tensor in _tensors(batch):
                tensor.share_memory_()  # type: ignore[no-untyped-call]
        except (RuntimeError, OSError) as problem:
            return _NoRoom(f"cannot put a batch into shared memory ({str(problem).partition(chr(10))[0]})")
        return batch


def _tensors(record: Any) -> Iterator[Tensor]:
    """Tensors with content in a record and the records in it."""
    if isinstance(record, Tensor):
        if record.numel():
            yield record
    elif is_dataclass(record):
        for field in fields(record):
            yield from _tensors(getattr(record, field.name))


class _AtWork(Iterator[Any]):
    """Workers that were started, and the batches that come from them."""

    def __init__(self, loader: DataLoader[Any], board: Any, workers: Workers, name: Callable[[int], str]) -> None:
        self._board, self._workers, self._name = board, workers, name
        self._owner, self._given, self._count = os.getpid(), 0, len(loader)
        before = signal.getsignal(signal.SIGCHLD)
        try:
            multiprocessing.Event()  # what fails first where shared memory is full: torch's iterator breaks off badly
            batches: Any = iter(loader)
        except OSError as problem:
            reason = problem.strerror or problem
            raise WorkerError(f"{workers.count} loading workers cannot be started ({reason}): {_more_room()}") from None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)  # torch's handler raises wherever this thread stands
        self._processes: list[BaseProcess] = list(batches._workers)  # by their numbers; torch has no public name
        self._asked: SimpleQueue[Future[Any] | None] = SimpleQueue()
        self._thread = threading.Thread(target=_serve, args=(batches, self._asked), daemon=True)
        self._thread.start()

    def __next__(self) -> Any:
        self._check()
        answer: Future[Any] = Future()
        self._asked.put(answer)
        look = min(_LOOK, self._workers.timeout)
        for _ in range(math.ceil(self._workers.timeout / look)):  # a process that is halted counts no time
            if wait([answer], look).done:
                return self._answered(answer)
            self._check()
        raise self._late()

    def _answered(self, answer: Future[Any]) -> Any:
        try:
            batch = answer.result()
        except Exception:
            self._processes[self._given % self._workers.count].join(_LOOK)  # its end may come after this
            self._check()
            raise
        if batch is _END:
            raise StopIteration
        if isinstance(batch, _NoRoom):
            raise WorkerError(f"{self._who(self._given % self._workers.count)} {batch.why}: {_more_room()}")
        self._given += 1
        return batch

    def close(self) -> None:
        """End the workers: orderly, if they are idle, else by force; does nothing in another process."""
        if os.getpid() != self._owner:
            return
        self._asked.put(None)
        self._thread.join(_PATIENCE)
        left = [process for process in self._processes if process.is_alive()]
        for process in left:
            process.kill()  # a frozen one would not hear anything milder, and none has anything to put in order
        for process in left:
            process.join(_PATIENCE)

    def _check(self) -> None:
        """Raise for a worker that ended, unless that is because all batches were given."""
        for worker, process in enumerate(self._processes):
            code = process.exitcode
            if code or (code == 0 and self._given < self._count):
                raise WorkerError(f"{self._who(worker)} {_end_of(code)}; {self._at(worker)}: {_more_room()}")

    def _late(self) -> WorkerError:
        worker = self._given % self._workers.count  # torch deals batches out in turn
        return WorkerError(
            f"{self._who(worker)} gave no batch within {self._workers.timeout:g} seconds; {self._at(worker)}: see "
            "whether that can be read at all, raise data.timeout, or load without workers (data.workers=0)"
        )

    def _who(self, worker: int) -> str:
        return f"loading worker {worker} (pid {self._processes[worker].pid})"

    def _at(self, worker: int) -> str:
        row = self._board[worker]
        return "it had begun no row" if row < 0 else f"it had last begun {self._name(row)}"


def _serve(batches: Iterator[Any], asked: "SimpleQueue[Future[Any] | None]") -> None:
    """Answer whoever asks for the next batch; torch's own waiting, which nothing can interrupt, is done in here."""
    while (answer := asked.get()) is not None:
        try:
            answer.set_result(next(batches, _END))
        except BaseException as problem:
            answer.set_exception(problem)
        del answer  # and with it the batch


def _end_of(code: int) -> str:
    """How a process ended, by its exit code, and what that often means."""
    if code >= 0:
        return f"ended with exit code {code}"
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL), as a system that runs out of memory does"
    if code == -signal.SIGBUS:
        return "ended by SIGBUS, as happens where shared memory is full"
    return f"ended by {signal.Signals(-code).name}"


def _more_room() -> str:
    """What helps where memory is short."""
    free = f" ({shutil.disk_usage(_SHARED).free / 1e6:.0f} MB are free there)" if _SHARED.is_dir() else ""
    return f"free memory, enlarge {_SHARED}{free}, or lower data.workers (0 loads in the training process)"

"""SVG to PNG, in as many processes as asked for; what is drawn already is left alone."""

import importlib
import importlib.util
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from isthmus.errors import DataError, UserError

SIZE = 224
_HAND = 16


def draw_pictures(
    drawings: Mapping[Path, str],
    *,
    processes: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Draw SVG documents to the PNG files that are their keys, on white, and return how many were drawn.

    Files that exist are skipped. Pictures are dealt out in small hands, ordered by file name, so every process
    gets its share of every set. A file appears by one rename: an interrupted call (Ctrl-C included) leaves
    whole pictures only, and the next one goes on from there. `progress` is told (done, total).

    Raises:
        UserError: resvg-py is not installed.
        DataError: a document cannot be drawn.

    """
    if importlib.util.find_spec("resvg_py") is None:
        raise UserError("drawing the pictures needs resvg-py: `pip install 'isthmus[quickstart]'` brings it.")
    jobs = [(path, drawings[path]) for path in sorted(drawings, key=lambda path: (path.name, path))]
    jobs = [(path, document) for path, document in jobs if not path.exists()]
    for folder in {path.parent for path, _ in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    done = len(drawings) - len(jobs)

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, len(drawings))

    hands = [jobs[start : start + _HAND] for start in range(0, len(jobs), _HAND)]
    if processes > 1 and hands:
        _in_processes(hands, processes, tell)
    else:
        for hand in hands:
            tell(_draw_hand(hand))
    return len(jobs)


def _in_processes(hands: Sequence[Sequence[tuple[Path, str]]], processes: int, tell: Callable[[int], None]) -> None:
    """Draw hands in parallel, telling the size of each as it is finished; stop all when one fails."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_leave_interrupts_to_parent)
    try:
        for future in as_completed([pool.submit(_draw_hand, hand) for hand in hands]):
            tell(future.result())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _draw_hand(hand: Sequence[tuple[Path, str]]) -> int:
    """Draw one process's next few pictures."""
    resvg = importlib.import_module("resvg_py")
    for path, document in hand:
        try:
            png = resvg.svg_to_bytes(
                svg_string=document, background="#ffffff", width=SIZE, height=SIZE, skip_system_fonts=True
            )
        except ValueError as error:
            raise DataError(
                f"the picture {path} cannot be drawn ({error}): remove its package and fetch it again."
            ) from error
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_bytes(png)
        part.replace(path)
    return len(hand)

"""`isthmus quickstart`: the guided first run, its tables and its page."""

import errno
from pathlib import Path
from typing import Any

from isthmus.build.precision import Precision
from isthmus.cli.show import console, quiet_libraries, retrieval_table, show_captions, stage2_table
from isthmus.errors import UserError
from isthmus.files import check_place
from isthmus.quickstart.page import write_page
from isthmus.quickstart.run import Order, Quickstart
from isthmus.quickstart.score import REPORT, finished_report, score
from isthmus.quickstart.work import Work
from isthmus.train.tracking import Reporter

_EXAMPLES = 10
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def run_quickstart(work: Work, output: Path, *, seed: int, development: bool, precision: Precision = "auto") -> None:
    """Do what is not done yet, score it, print what was found."""
    quiet_libraries()
    order = Order(output, work, seed, development, precision)
    check_place(output / REPORT)
    try:
        _run(order)
    except OSError as problem:
        if problem.errno not in _NO_ROOM:
            raise
        raise UserError(
            f"{problem.filename or output} cannot be written ({problem.strerror}); what is done stays: free space, or "
            "choose another --output, and run the same command again"
        ) from problem


def _run(order: Order) -> None:
    output = order.folder
    run = Quickstart(order, lambda line: console.print(line, markup=False))
    with _PictureProgress() as progress:
        workshop = run.run(progress)
    report = finished_report(run) or score(run, workshop)
    show_report(report)
    page = write_page(report, output)
    console.print(f"written: {output / REPORT}, and {page} to look at in a browser", markup=False)


def show_report(report: dict[str, Any]) -> None:
    """Print a report's tables, some captions, and the proof that the towers are unchanged."""
    console.print(retrieval_table(report["retrieval"]))
    console.print(stage2_table(report["language"]))
    name, figures = next(iter(report["language"].items()))
    console.print(f"through the language model, {name}:", markup=False)
    show_captions(figures, count=_EXAMPLES)
    unchanged = all(all(towers.values()) for towers in report["towers_unchanged"].values())
    console.print(f"both frozen towers unchanged: {'yes' if unchanged else 'NO'}")
    times = ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in report["seconds"].items())
    steps = ", ".join(f"{stage} {seconds:.2f} s a step" for stage, seconds in report["seconds_per_step"].items())
    console.print(f"{times}; {steps}; {report['gemm_gflops']} GFLOP/s in {report['precision']}")


class _PictureProgress:
    """Progress of fetching and drawing, one bar after the other."""

    def __init__(self) -> None:
        self._reporters: dict[str, Reporter] = {}

    def __enter__(self) -> "_PictureProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase not in self._reporters:
            self._close()
            self._reporters[phase] = Reporter(phase, total).__enter__()
        figures = f"{done} of {total}" if done == total or done % max(1, total // 10) == 0 else None
        self._reporters[phase].advance(done, figures)
        if done == total:
            self._close()

    def _close(self) -> None:
        for reporter in self._reporters.values():
            reporter.__exit__()

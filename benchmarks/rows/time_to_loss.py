"""How long until LAVIS's loss: it takes its steps first, then we go until our loss, smoothed alike, is as low."""

import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.child import Child
from benchmarks.inputs import write_rows, write_weights
from benchmarks.pair import OURS, PEER
from benchmarks.quiet import Watch
from benchmarks.row import Case, Row, Setting, programs
from isthmus.checkpoints.keymap import lavis

STEPS, SMOOTHED, BATCHES, PATIENCE = 30, 5, 6, 3


def run(case: Case, setting: Setting) -> dict[str, Any]:
    """Make the inputs, let the peer take its steps, then ours take theirs, from the same weights."""
    batch = case["batch"]
    write_weights(setting.folder, setting.scale.bridge, lavis(None))
    write_rows(setting.folder, setting.scale, BATCHES * batch, "11")
    sides = programs("ours_stage1", "lavis_stage1", environment="lavis")
    options = {"batch": batch, "dtype": case["dtype"]}

    def steps(name: str, enough: Callable[[Sequence[float]], bool]) -> tuple[list[dict[str, Any]], dict[str, str]]:
        with (
            tempfile.TemporaryDirectory() as logs,
            Child(sides[name], threads=setting.effort.threads, log=Path(logs) / name) as side,
        ):
            side.load(setting.folder, options)
            return _until(side, enough), side.ready["versions"]

    theirs, their_versions = steps(PEER, lambda losses: len(losses) == STEPS)
    goal = smoothed([step["loss"] for step in theirs])
    ours, our_versions = steps(
        OURS,
        lambda losses: len(losses) == STEPS * PATIENCE or (len(losses) >= SMOOTHED and smoothed(losses) <= goal),
    )
    seconds = {name: sum(step["seconds"] for step in taken) for name, taken in ((OURS, ours), (PEER, theirs))}
    return {
        "threads": setting.effort.threads,
        "versions": {OURS: our_versions, PEER: their_versions},
        "goal": goal,
        "reached": smoothed([step["loss"] for step in ours]) <= goal,
        "steps": {OURS: len(ours), PEER: len(theirs)},
        "seconds": seconds,
        "times_as_fast": dict.fromkeys(("median", "min", "max"), seconds[PEER] / seconds[OURS]),
        "clean": sum(step["others"] <= setting.effort.limit for step in [*ours, *theirs]),
        "counted": len(ours) + len(theirs),
        "pairs": {OURS: ours, PEER: theirs},
    }


def smoothed(losses: Sequence[float]) -> float:
    """The mean of the last few losses."""
    return statistics.fmean(losses[-SMOOTHED:])


def _until(side: Child, enough: Callable[[Sequence[float]], bool]) -> list[dict[str, Any]]:
    """Take steps until it is enough; each with its loss and what others used of the cores."""
    taken: list[dict[str, Any]] = []
    while not enough([step["loss"] for step in taken]):
        watch = Watch([os.getpid()])  # the side is a process of this one
        step = side.ask("step")
        taken.append({**step, "others": watch.others(), "loss": sum(step["losses"].values())})
    print(f"    {side.name}: {len(taken)} steps, loss {smoothed([step['loss'] for step in taken]):.4f}", flush=True)
    return taken


ROW = Row(
    name="time-to-loss",
    title=f"ITC + ITM + ITG down to LAVIS's after {STEPS} steps",
    peer="LAVIS 1.0.2",
    cases=tuple({"batch": batch, "dtype": dtype} for batch, dtype in product((8,), ("bf16", "fp32"))),
    run=run,
)

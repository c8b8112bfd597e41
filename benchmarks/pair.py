"""Both sides in turn: one step here, one step there, the machine's rate after each pair, until enough were clean."""

import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.child import Child, Program
from benchmarks.quiet import Watch

OURS, PEER = "ours", "peer"


@dataclass(frozen=True)
class Effort:
    """How a comparison is run; a pair in which others used more than `limit` of the cores is taken again."""

    threads: int = 2
    warmup: int = 2
    pairs: int = 5
    patience: int = 3
    limit: float = 0.03


def compare(
    programs: dict[str, Program],
    folder: Path,
    options: dict[str, Any],
    effort: Effort,
    *,
    apart: Mapping[str, dict[str, Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Run both sides on the inputs in `folder`; returns every pair, and what they come to.

    `apart` are options of one side alone.
    """
    with tempfile.TemporaryDirectory() as logs, ExitStack() as stack:
        sides = {
            name: stack.enter_context(Child(program, threads=effort.threads, log=Path(logs) / name))
            for name, program in programs.items()
        }
        loaded = {name: side.load(folder, {**options, **apart.get(name, {})}) for name, side in sides.items()}
        for _ in range(effort.warmup):
            for side in sides.values():
                side.ask("step")
        pairs = _pairs(sides, options["dtype"], effort)
        memory = {name: side.ask("memory") for name, side in sides.items()}
        versions = {name: side.ready["versions"] for name, side in sides.items()}
    return {
        "threads": effort.threads,
        "loaded": loaded,
        "versions": versions,
        "pairs": pairs,
        "memory": {name: _parts(given) for name, given in memory.items()},
        **summary(pairs),
    }


def summary(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The seconds of each side and the ratio peer over ours, over the clean pairs; over all where none was clean."""
    clean = [pair for pair in pairs if pair["clean"]]
    counted = clean or pairs
    found: dict[str, Any] = {"clean": len(clean), "counted": len(counted)}
    for name in (OURS, PEER):
        if name in counted[0]:
            found[f"{name}_seconds"] = spread([pair[name]["seconds"] for pair in counted])
    if PEER in counted[0]:
        found["times_as_fast"] = spread([pair[PEER]["seconds"] / pair[OURS]["seconds"] for pair in counted])
    found["probe_gflops"] = spread([pair["probe_gflops"] for pair in counted])
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _pairs(sides: dict[str, Child], dtype: str, effort: Effort) -> list[dict[str, Any]]:
    """Pairs of steps; those that were not clean are taken again, up to `patience` times as many in all."""
    pairs: list[dict[str, Any]] = []
    while sum(pair["clean"] for pair in pairs) < effort.pairs and len(pairs) < effort.pairs * effort.patience:
        pair: dict[str, Any] = {}
        for name, side in sides.items():
            watch = Watch([os.getpid()])  # the sides are processes of this one
            pair[name] = side.ask("step")
            pair[name]["others"] = watch.others()
        pair["probe_gflops"] = sides[OURS].ask("probe", dtype=dtype)["gflops"]
        pair["clean"] = max(pair[name]["others"] for name in sides) <= effort.limit
        pairs.append(pair)
        print("   ", "  ".join(f"{name} {pair[name]['seconds']:.3f} s" for name in sides), _remark(pair), flush=True)
    return pairs


def _remark(pair: dict[str, Any]) -> str:
    return "" if pair["clean"] else "(others used the cores)"


def _parts(memory: dict[str, Any]) -> dict[str, float]:
    """Bytes: the peak without imports, what lives between steps, and what is above both."""
    total = memory["peak"] - memory["imports"]
    return {**memory, "total": total, "above": total - memory["state"]}

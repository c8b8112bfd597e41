"""A comparison as a record: its cases, and how one of them is run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.child import Program
from benchmarks.environments import python_of
from benchmarks.inputs import Scale
from benchmarks.pair import OURS, PEER, Effort

Case = Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """What a run decides for all rows: how large (`full` or `tiny`), how often, an empty folder for the inputs."""

    name: str
    scale: Scale
    effort: Effort
    folder: Path


@dataclass(frozen=True)
class Row:
    """One comparison; `run` gives what is measured in a case. A case with dtype bf16 needs a machine that has it.

    `own` are columns of its own, each with the name of what is measured: a number for each side.
    """

    name: str
    title: str
    peer: str
    cases: tuple[Case, ...]
    run: Callable[[Case, Setting], dict[str, Any]]
    own: Mapping[str, str] = field(default_factory=dict)


def programs(ours: str, peer: str = "", *, environment: str = "") -> dict[str, Program]:
    """The sides of a row by the names of their modules; without a peer, ours alone."""
    found = {OURS: Program(python_of(""), f"benchmarks.sides.{ours}", ours=True)}
    if peer:
        found[PEER] = Program(python_of(environment), f"benchmarks.sides.{peer}", ours=not environment)
    return found


def differences(measured: dict[str, Any]) -> dict[str, float]:
    """How far the sides' losses lay apart before the first step, without dropout, in fp32."""
    ours, peer = (measured["loaded"][side]["start"] for side in (OURS, PEER))
    return {name: abs(ours[name] - peer[name]) for name in ours}


def utilisation(measured: dict[str, Any], flops: float) -> dict[str, float]:
    """The share of the probe's rate that each side's step reaches, by the least arithmetic a step takes."""
    rate = measured["probe_gflops"]["median"] * 1e9
    sides = [side for side in (OURS, PEER) if f"{side}_seconds" in measured]
    return {side: flops / (measured[f"{side}_seconds"]["median"] * rate) for side in sides}

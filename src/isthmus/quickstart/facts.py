"""What a quickstart did and on what: work, machine, time, memory, loss curves, and the proof that towers are frozen."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

from isthmus.build.training import LOG
from isthmus.build.workshop import Workshop
from isthmus.config.stages import STAGES
from isthmus.models.stage1 import Stage1
from isthmus.models.stage2 import Stage2
from isthmus.quickstart.logs import read_curves, step_seconds
from isthmus.quickstart.plan import gemm_rate
from isthmus.quickstart.run import Quickstart

_CPUINFO = Path("/proc/cpuinfo")


def what_was_done(run: Quickstart, workshop: Workshop) -> dict[str, Any]:
    """All of a report but its scores."""
    records = {f"stage {stage}": record for stage, record in run.records.items()}
    logs = {f"stage {stage}": run.order.folder / STAGES[stage] / LOG for stage in run.records}
    return {
        "work": run.order.work.describe(),
        "seed": run.order.seed,
        "trained_on": run.order.training_rows,
        "steps": {name: record["config"]["train"]["steps"] for name, record in records.items()},
        "batch_size": {name: record["config"]["train"]["batch_size"] for name, record in records.items()},
        "queries": records["stage 1"]["config"]["bridge"]["queries"],
        "curves": {name: read_curves(log) for name, log in logs.items()},
        "seconds": run.phases.seconds,
        "seconds_per_step": {name: step_seconds(log) for name, log in logs.items()},
        "peak_memory_gib": run.phases.peak_gib,
        "precision": workshop.compute.dtype_name,
        "gemm_gflops": round(gemm_rate(workshop.compute)),
        "machine": machine(workshop.compute.device),
        "versions": records["stage 1"]["versions"],
        "towers": records["stage 2"]["towers"],
        "towers_unchanged": {name: record["towers_unchanged"] for name, record in records.items()},
        "tower_hashes": {name: record.get("tower_hashes", {}) for name, record in records.items()},
    }


def machine(device: torch.device) -> dict[str, Any]:
    """What computed, so that two machines' reports can be compared."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"name": name, "device": str(device), "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def frozen_parameters(stage: Stage1 | Stage2, workshop: Workshop) -> dict[str, int]:
    """The size of each tower."""
    towers = {"encoder": workshop.encoder, **({"llm": stage.llm} if isinstance(stage, Stage2) else {})}
    return {name: _count(tower) for name, tower in towers.items()}


def trained_parameters(stage: Stage1 | Stage2) -> dict[str, int]:
    """The size of each part of a bridge: all of it learns."""
    return {name: _count(part) for name, part in stage.bridge.named_children()}


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _processor() -> str:
    """The processor's own name where the system tells it, else its architecture."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()

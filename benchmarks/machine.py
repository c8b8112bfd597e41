"""Which machine and which state of the source a figure is from."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.child import ROOT


def describe() -> dict[str, Any]:
    """The processor, its own bf16, cores and memory."""
    model = next(_cpu_info("model name"), platform.processor() or "unknown")
    return {
        "processor": re.sub(r"\s+", " ", model),
        "bf16": native_bf16(),
        "cores": os.cpu_count(),
        "gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
    }


def native_bf16() -> str:
    """How the processor multiplies in bf16: `amx`, `avx512_bf16`, or `none` where it is emulated."""
    has = torch.cpu.get_capabilities()
    return "amx" if has.get("amx_bf16") else "avx512_bf16" if has.get("avx512_bf16") else "none"


def slug(machine: dict[str, Any]) -> str:
    """The machine's name in a file's."""
    words = re.sub(r"\(.*?\)|CPU|Processor|@.*", "", machine["processor"])
    return re.sub(r"[^a-z0-9]+", "-", f"{words} {machine['bf16']}".lower()).strip("-")


def now() -> dict[str, str]:
    """The commit, marked where files differ from it, and the day."""
    commit, changed = (
        _git("rev-parse", "--short=12", "HEAD"),
        _git("status", "--porcelain", "--", "src", "benchmarks/*.py"),
    )
    return {"commit": commit + ("+changes" if changed else ""), "date": datetime.now(UTC).date().isoformat()}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _cpu_info(field: str) -> Any:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            yield value.strip()

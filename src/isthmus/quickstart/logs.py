"""What a stage's log tells: its loss curves, and the time of a step."""

import json
from pathlib import Path
from statistics import median
from typing import Any

TERMS = ("itc", "itm", "itg", "lm")


def read_curves(log: Path) -> dict[str, list[int | float]]:
    """The steps that were logged in the log's last run, and each loss term at these steps."""
    records = [record for record in _last_run(log) if any(term in record for term in TERMS)]
    terms = [term for term in TERMS if records and term in records[0]]
    return {name: [record[name] for record in records] for name in ("step", *terms)}


def step_seconds(log: Path) -> float:
    """The median step of the log's last run, in seconds."""
    middle: float = median(r["seconds_per_step"] for r in _last_run(log) if "seconds_per_step" in r)
    return round(middle, 3)


def _last_run(log: Path) -> list[dict[str, Any]]:
    lines = log.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines if line.endswith("}")]  # a killed run may end in half a line
    last = max(number for number, record in enumerate(records) if "start" in record)
    return records[last:]

"""What a stage's log tells: its loss curves, and the time of a step."""

from pathlib import Path
from statistics import median

from isthmus.train.tracking import last_run, unbroken

TERMS = ("itc", "itm", "itg", "lm")


def read_curves(log: Path) -> dict[str, list[int | float]]:
    """The steps that were logged in the log's last run, and each loss term at these steps."""
    records = [record for record in unbroken(last_run(log)) if any(term in record for term in TERMS)]
    terms = [term for term in TERMS if records and term in records[0]]
    return {name: [record[name] for record in records] for name in ("step", *terms)}


def step_seconds(log: Path) -> float:
    """The median step of the log's last run, in seconds."""
    middle: float = median(r["seconds_per_step"] for r in unbroken(last_run(log)) if "seconds_per_step" in r)
    return round(middle, 3)

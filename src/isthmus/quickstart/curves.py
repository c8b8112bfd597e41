"""The report's loss curves: one chart a term, each with the level that it is to be compared with."""

import math
from collections.abc import Mapping
from typing import Any

from isthmus.quickstart.charts import Chart, Level

ITM_PRIOR = math.log(3) - 2 / 3 * math.log(2)
"""ITM's loss for who only knows that one pair in three matches: the entropy of (1/3, 2/3) in nats, 0.637."""

TERM_NAMES = {
    "itc": ("ITC", "contrast: which of the batch's names belongs to this drawing, and which drawing to this name?"),
    "itm": ("ITM", "matching: do this drawing and this name belong together?"),
    "itg": ("ITG", "generation: the Q-Former writes the name itself, token by token"),
    "lm": (
        "LM",
        "language modelling: the frozen language model writes the name after the bridge's soft prompt; "
        "dashed: the same loss on drawings held out",
    ),
}


def loss_charts(report: Mapping[str, Any]) -> list[tuple[str, Chart]]:
    """Every term of both stages in the order of training, by name."""
    return [
        (term, Chart(_title(stage, term, curve), curve["step"], curve[term], _levels(report, stage, term)))
        for stage, curve in report["curves"].items()
        for term in TERM_NAMES
        if term in curve
    ]


def _levels(report: Mapping[str, Any], stage: str, term: str) -> list[Level]:
    if term == "itc":
        batch = report["batch_size"][stage]
        return [Level(math.log(batch), f"chance, ln {batch} =")]
    if term == "itm":
        return [Level(ITM_PRIOR, "chance, the class prior")]
    if term == "lm":
        loss = next(iter(report["language"].values()))["loss"]
        return [Level(loss["right"], "held out, right picture"), Level(loss["shuffled"], "held out, another's picture")]
    return []


def _title(stage: str, term: str, curve: Mapping[str, Any]) -> str:
    first, last = curve[term][0], curve[term][-1]
    return (
        f"{TERM_NAMES[term][0]} loss of {stage}, from {first:.2f} at step {curve['step'][0]} "
        f"to {last:.2f} at step {curve['step'][-1]}"
    )

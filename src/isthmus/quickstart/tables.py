"""Figures of a report → the rows of its tables; what a report lacks (an older one's re-ranking) is not shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Interval = tuple[float, float]
COLUMNS = ("R@1", "R@5", "R@10", "mean_rank", "median_rank")
DIRECTIONS = {"text_to_image": "name → drawing", "image_to_text": "drawing → name"}


@dataclass(frozen=True)
class Cell:
    """A number with its confidence interval, where the report has one; `digits` after the point."""

    value: float
    interval: Interval | None = None
    digits: int = 1


@dataclass(frozen=True)
class MethodRow:
    """One way of ranking."""

    method: str
    cells: list[Cell]


@dataclass(frozen=True)
class RetrievalGroup:
    """A set and a direction, ranked in several ways."""

    title: str
    candidates: int
    rows: list[MethodRow]


@dataclass(frozen=True)
class CaptionRow:
    """Captions of a set by one writer: per cent right, exactly and in normal form."""

    title: str
    writer: str
    pictures: int
    exact: Cell
    normalised: Cell | None


def retrieval_groups(sets: Mapping[str, Any]) -> list[RetrievalGroup]:
    """Both directions of every set: ITC alone, re-ranked, by the original's sum, and chance."""
    return [
        RetrievalGroup(f"{name}, {label}", figures["candidates"], _method_rows(figures, direction))
        for name, figures in sets.items()
        for direction, label in DIRECTIONS.items()
    ]


def caption_rows(report: Mapping[str, Any]) -> list[CaptionRow]:
    """Every set's captions, through the language model and by the Q-Former alone."""
    writers = {"language": "language model", "retrieval": "Q-Former alone"}
    return [
        CaptionRow(
            name,
            writer,
            figures["pictures"],
            _cell(figures, figures.get("confidence", {}), "exact_match"),
            _cell(figures, figures["confidence"], "normalised_match") if "normalised_match" in figures else None,
        )
        for name in report["language"]
        for key, writer in writers.items()
        for figures in [report[key][name]]
    ]


def chance_of_finding(first: int, candidates: int) -> float:
    """Per cent: the right one among the first few of candidates in any order."""
    return 100 * min(first, candidates) / candidates


def _method_rows(figures: Mapping[str, Any], direction: str) -> list[MethodRow]:
    confidence = figures.get("confidence", {})
    rows = [MethodRow("ITC alone", _cells(figures[direction], confidence.get(direction, {})))]
    for key, method in {"reranked": _reranked(figures), "original_sum": "the original's sum"}.items():
        if key in figures:
            rows.append(MethodRow(method, _cells(figures[key][direction], confidence[key][direction])))
    return [*rows, MethodRow("chance", _chance(figures["candidates"], len(rows[0].cells)))]


def _reranked(figures: Mapping[str, Any]) -> str:
    ranking = figures.get("ranking")
    return "" if ranking is None else f"re-ranked (λ = {ranking['weight']:g}, first {ranking['shortlist']})"


def _cells(found: Mapping[str, Any], bounds: Mapping[str, Any]) -> list[Cell]:
    return [_cell(found, bounds, column) for column in COLUMNS if column in found]


def _cell(found: Mapping[str, Any], bounds: Mapping[str, Any], name: str) -> Cell:
    interval = (bounds[name][0], bounds[name][1]) if name in bounds else None
    return Cell(found[name], interval, 0 if name == "median_rank" and found[name] % 1 == 0 else 1)


def _chance(candidates: int, columns: int) -> list[Cell]:
    found = [chance_of_finding(first, candidates) for first in (1, 5, 10)]
    middle = (candidates + 1) / 2
    return [Cell(value) for value in [*found, middle, middle][:columns]]

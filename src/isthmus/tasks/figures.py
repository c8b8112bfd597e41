"""Scores as plain numbers, ready for JSON: per cent, ranks, and 95 % intervals beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Int
from torch import Tensor

from isthmus.models.ranking import Ranking
from isthmus.tasks.caption import Caption, exact, normalised, pictured
from isthmus.tasks.coco import Metric, MetricError, coco_scores
from isthmus.tasks.confidence import LEVEL, RESAMPLES, intervals, rank_intervals
from isthmus.tasks.rerank import GRID, Shortlists
from isthmus.tasks.retrieval import DIRECTIONS, KS, Direction, Embedded, itc_ranks, recalls

Places = Mapping[Direction, Int[Tensor, "_"]]
GAP = (
    "The gap is what a wrong picture costs the language model; near 0, it is not looking at the pictures, "
    "however good the captions read."
)
INTERVALS = {"level": LEVEL, "resamples": RESAMPLES, "drawn": "pictures by identity, with replacement"}


def itc_figures(embedded: Embedded, *, seed: int) -> dict[str, Any]:
    """Recalls and ranks both ways by ITC alone."""
    places = _itc(embedded)
    sizes = {"candidates": len(embedded.images), "texts": len(embedded.texts)}
    return {**_table(places), **sizes, "confidence": {**INTERVALS, **_bounds(places, embedded, seed)}}


def reranked_figures(
    embedded: Embedded, shortlists: Shortlists, ranking: Ranking, *, seed: int
) -> dict[str, dict[str, Any]]:
    """The same after re-ranking by a ranking and by the original's sum, what the ranking gains, and all intervals."""
    rankings = [ranking, replace(ranking, rule="original")]
    found = {way: shortlists.places(embedded, way, rankings) for way in DIRECTIONS}
    reranked, original = ({way: found[way][which] for way in DIRECTIONS} for which in (0, 1))
    confidence = {
        "reranked": _bounds(reranked, embedded, seed),
        "original_sum": _bounds(original, embedded, seed),
        "gain": _gain(_itc(embedded), reranked, embedded, seed),
    }
    return {"reranked": _table(reranked), "original_sum": _table(original), "confidence": confidence}


def weight_grid(
    embedded: Embedded, shortlists: Shortlists, ranking: Ranking
) -> dict[float, dict[str, dict[str, float]]]:
    """Recalls and ranks both ways for each weight of the grid, by the rule of log-odds."""
    rankings = [replace(ranking, weight=weight, rule="log_odds") for weight in GRID]
    found = {way: shortlists.places(embedded, way, rankings) for way in DIRECTIONS}
    return {weight: {way: recalls(found[way][n]) for way in DIRECTIONS} for n, weight in enumerate(GRID)}


def caption_figures(captions: Sequence[Caption], *, seed: int) -> dict[str, Any]:
    """Per cent of captions that are right, exactly and in normal form; all of them beside their first reference."""
    right = {"exact_match": 100.0 * exact(captions), "normalised_match": 100.0 * normalised(captions)}
    bounds = intervals(right, pictured(captions), seed=seed)
    return {
        **{name: float(hits.double().mean()) for name, hits in right.items()},
        "pictures": len(captions),
        "captions": [caption.shown for caption in captions],
        "confidence": {**INTERVALS, **bounds},
    }


def coco_figures(captions: Sequence[Caption], metrics: Sequence[Metric]) -> dict[str, float | int | str]:
    """BLEU, CIDEr and METEOR against all references; without the extra or Java, the sentence that says so."""
    said = [(str(row), caption.said) for row, caption in enumerate(captions)]
    references = {str(row): caption.references for row, caption in enumerate(captions)}
    try:
        return {**coco_scores(said, references, metrics)}
    except MetricError as problem:
        return {"missing": str(problem)}


def _itc(embedded: Embedded) -> Places:
    return {direction: itc_ranks(embedded, direction) for direction in DIRECTIONS}


def _table(places: Places) -> dict[str, dict[str, float]]:
    return {direction: recalls(found) for direction, found in places.items()}


def _bounds(places: Places, embedded: Embedded, seed: int) -> dict[str, dict[str, list[float]]]:
    return {way: rank_intervals(found, embedded.pictured(way), seed=seed) for way, found in places.items()}


def _gain(before: Places, after: Places, embedded: Embedded, seed: int) -> dict[str, dict[str, list[float]]]:
    """Intervals of the difference of recalls, query by query: the same pictures are drawn for both."""
    found: dict[str, dict[str, list[float]]] = {}
    for way in DIRECTIONS:
        hits = {f"R@{k}": 100.0 * ((after[way] <= k).double() - (before[way] <= k).double()) for k in KS}
        found[way] = intervals(hits, embedded.pictured(way), seed=seed)
    return found


def in_a_line(figures: Mapping[str, Any]) -> str:
    """What an evaluation found, for the progress of a run: recalls of stage 1, losses of stage 2, exact captions."""
    what = "answers" if "questions" in figures else "captions"
    exactly = f"{figures['exact_match']:.1f} % of {what} exact"
    if "loss" in figures:
        loss = figures["loss"]
        found = f"loss {loss['right']:.2f} with the right pictures, {loss['shuffled']:.2f} with shuffled ones"
        return f"{found}, gap {loss['gap']:.2f} nats, {exactly}. {GAP}"
    ways = (
        f"{way.replace('_', ' ')} R@1 {figures[way]['R@1']:.1f}, R@5 {figures[way]['R@5']:.1f}" for way in DIRECTIONS
    )
    return f"{'; '.join(ways)}; {exactly}"

"""Confidence intervals by bootstrap over pictures: how far a score could lie elsewhere with other pictures of the kind.

Queries of one picture (several captions, several drawings of one thing) are no independent tries. So what is drawn
with replacement is pictures by identity, and a drawn picture brings all its queries (the cluster bootstrap; Efron and
Tibshirani 1993, percentile intervals). The draws are keyed by the seed.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isthmus.fingerprint import text_identity
from isthmus.randomness import uniform
from isthmus.tasks.retrieval import KS

LEVEL, RESAMPLES = 0.95, 1000
_KEY = text_identity("bootstrap of pictures")
_PIECE = 50

Interval = list[float]


def intervals(
    values: Mapping[str, Float[Tensor, " N"]], pictures: Int[Tensor, " N"], *, seed: int
) -> dict[str, Interval]:
    """95 % intervals of the means of some figures that every query has; `pictures` says whose query it is."""
    table = torch.stack([figure.double() for figure in values.values()], dim=1)
    group, counts = _groups(pictures)
    sums = torch.zeros(len(counts), len(values), dtype=torch.float64).index_add(0, group, table)
    means = [(drawn @ sums) / (drawn @ counts)[:, None] for drawn in _draws(len(counts), seed)]
    return dict(zip(values, _bounds(torch.cat(means)), strict=True))


def rank_intervals(places: Int[Tensor, " N"], pictures: Int[Tensor, " N"], *, seed: int) -> dict[str, Interval]:
    """95 % intervals of all that `recalls` gives."""
    figures: dict[str, Tensor] = {f"R@{k}": 100.0 * (places <= k) for k in KS}
    group, counts = _groups(pictures)
    ordered, order = places.sort()
    medians = [_medians(ordered, drawn[:, group[order]]) for drawn in _draws(len(counts), seed)]
    median = _bounds(torch.cat(medians)[:, None])[0]
    return {**intervals({**figures, "mean_rank": places.double()}, pictures, seed=seed), "median_rank": median}


def _groups(pictures: Int[Tensor, " N"]) -> tuple[Int[Tensor, " N"], Float[Tensor, " G"]]:
    """Each query's picture as a number from 0, and how many queries each picture has."""
    _, group, counts = torch.unique(pictures, return_inverse=True, return_counts=True)
    return group, counts.double()


def _draws(groups: int, seed: int) -> Iterator[Float[Tensor, "S G"]]:
    """How often each of G pictures is drawn when G are, with replacement; some resamples S after the other."""
    for resamples in torch.split(torch.arange(RESAMPLES), _PIECE):
        numbers = uniform(seed, _KEY, resamples[:, None], torch.arange(groups)) * groups
        drawn = numbers.long().clamp_max(groups - 1)  # the product may round up
        counts = torch.zeros(len(resamples), groups, dtype=torch.float64)
        yield counts.scatter_add(1, drawn, torch.ones_like(drawn, dtype=torch.float64))


def _medians(ordered: Int[Tensor, " N"], times: Float[Tensor, "S N"]) -> Float[Tensor, " S"]:
    """The median of sorted values, each standing there some times; of an even number the mean of the middle two."""
    upto = times.cumsum(dim=1)
    total = upto[:, -1:]
    middle = torch.cat([((total - 1) / 2).floor(), (total / 2).floor()], dim=1)
    return ordered[torch.searchsorted(upto, middle, right=True)].double().mean(dim=1)


def _bounds(statistics: Float[Tensor, "S F"]) -> list[Interval]:
    tail = (1 - LEVEL) / 2
    bounds: list[Interval] = statistics.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0).T.tolist()
    return bounds

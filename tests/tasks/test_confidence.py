"""Intervals against a slow bootstrap that makes every resample as a list; pictures, not queries, are drawn."""

from statistics import mean, median

import pytest
import torch

from isthmus.randomness import uniform
from isthmus.tasks import confidence
from isthmus.tasks.confidence import RESAMPLES, intervals, rank_intervals

PLACES = torch.tensor([1, 1, 3, 7, 2, 12, 1, 30, 4])
PICTURES = torch.tensor([9, 9, 4, 4, 4, 7, 8, 8, 5])


def slow_intervals(statistic, seed):
    """Draw as many pictures as there are, take all their queries, score; the 2.5 and 97.5 % points by hand."""
    groups = [PLACES[name == PICTURES].tolist() for name in sorted(set(PICTURES.tolist()))]
    found = []
    for resample in range(RESAMPLES):
        draws = uniform(seed, confidence._KEY, resample, torch.arange(len(groups))).tolist()
        found.append(statistic([place for draw in draws for place in groups[int(draw * len(groups))]]))
    found.sort()

    def point(share):
        position = share * (len(found) - 1)
        low = int(position)
        return found[low] + (position - low) * (found[min(low + 1, len(found) - 1)] - found[low])

    return [point(0.025), point(0.975)]


def test_every_statistic_is_the_slow_bootstraps():
    found = rank_intervals(PLACES, PICTURES, seed=3)
    for k in (1, 5, 10):
        slow = slow_intervals(lambda places, k=k: 100 * mean(place <= k for place in places), 3)
        assert found[f"R@{k}"] == pytest.approx(slow), k
    assert found["mean_rank"] == pytest.approx(slow_intervals(mean, 3))
    assert found["median_rank"] == pytest.approx(slow_intervals(median, 3))


def test_several_captions_of_a_picture_are_no_new_evidence():
    hits = (torch.arange(40) % 2).double()
    alone = intervals({"hit": hits}, torch.arange(40), seed=0)["hit"]
    fivefold = intervals({"hit": hits.repeat_interleave(5)}, torch.arange(40).repeat_interleave(5), seed=0)["hit"]
    as_if_independent = intervals({"hit": hits.repeat_interleave(5)}, torch.arange(200), seed=0)["hit"]
    assert fivefold == pytest.approx(alone)
    assert as_if_independent[1] - as_if_independent[0] < 0.6 * (alone[1] - alone[0])


def test_an_interval_is_about_the_normal_one_and_holds_the_score():
    hits = 100.0 * (torch.arange(400) < 240)
    low, high = intervals({"hit": hits}, torch.arange(400), seed=1)["hit"]
    spread = 1.96 * (60 * 40 / 400) ** 0.5
    assert low < 60 < high
    assert (low, high) == (pytest.approx(60 - spread, abs=0.8), pytest.approx(60 + spread, abs=0.8))


def test_the_seed_is_the_key():
    draw = lambda seed: rank_intervals(PLACES, PICTURES, seed=seed)  # noqa: E731
    assert draw(1) == draw(1) != draw(2)

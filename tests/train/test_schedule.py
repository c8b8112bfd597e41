import math

import pytest

from isthmus.train.schedule import share_of_peak


def shares(steps, warmup, lowest):
    return [share_of_peak(step, steps=steps, warmup=warmup, lowest=lowest) for step in range(steps)]


def test_a_linear_rise_then_half_a_cosine():
    expected = [0.5, 1.0, 1.0, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 + math.cos(3 * math.pi / 4)) / 2]
    assert shares(6, 2, 0.0) == pytest.approx(expected)
    assert share_of_peak(6, steps=6, warmup=2, lowest=0.0) == pytest.approx(0.0)


def test_the_cosine_ends_at_the_lowest_share():
    assert share_of_peak(4, steps=8, warmup=0, lowest=0.2) == pytest.approx(0.6)
    assert share_of_peak(8, steps=8, warmup=0, lowest=0.2) == pytest.approx(0.2)


def test_without_warmup_it_starts_at_the_peak_and_one_step_is_enough():
    assert shares(1, 0, 0.0) == [1.0]
    assert shares(2, 2, 0.0) == [0.5, 1.0]

"""The learning rate's course: by literal numbers, and by the original's own formula."""

import math

import pytest

from isthmus.train.schedule import Schedule


def shares(steps, warmup, lowest, start=0.0):
    schedule = Schedule(steps, warmup, start, lowest)
    return [schedule.share(step, 0) for step in range(steps)]


def test_a_linear_rise_then_half_a_cosine():
    expected = [0.5, 1.0, 1.0, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 + math.cos(3 * math.pi / 4)) / 2]
    assert shares(6, 2, 0.0) == pytest.approx(expected)
    assert Schedule(6, 2, 0.0, 0.0).share(6, 0) == pytest.approx(0.0)


def test_the_cosine_ends_at_the_lowest_share():
    assert Schedule(8, 0, 0.0, 0.2).share(4, 0) == pytest.approx(0.6)
    assert Schedule(8, 0, 0.0, 0.2).share(8, 0) == pytest.approx(0.2)


def test_without_warmup_it_starts_at_the_peak_and_one_step_is_enough():
    assert shares(1, 0, 0.0) == [1.0]
    assert shares(2, 2, 0.0) == [0.5, 1.0]


def test_the_rise_may_start_above_nothing():
    assert shares(4, 4, 0.0, start=0.2) == pytest.approx([0.4, 0.6, 0.8, 1.0])


def by_epoch(epochs, per_epoch, warmup, lowest, start):
    schedule = Schedule(epochs * per_epoch, warmup, start, lowest, epochs)
    return [schedule.share(step, step // per_epoch) for step in range(epochs * per_epoch)]


def the_original(epochs, per_epoch, warmup, lowest, start, peak=1e-4):
    """What LAVIS sets before each step, in its own words and as a share of the peak."""
    found = []
    for epoch in range(epochs):
        for step in range(per_epoch):
            if epoch == 0:
                rate = min(peak, start * peak + (peak - start * peak) * step / max(warmup, 1))
            else:
                rate = (peak - lowest * peak) * 0.5 * (1 + math.cos(math.pi * epoch / epochs)) + lowest * peak
            found.append(rate / peak)
    return found


def test_by_epoch_the_cosine_stands_still_within_each():
    found = by_epoch(epochs=4, per_epoch=3, warmup=2, lowest=0.0, start=0.2)
    low, high = (1 - math.sqrt(0.5)) / 2, (1 + math.sqrt(0.5)) / 2
    assert found == pytest.approx([0.2, 0.6, 1.0, high, high, high, 0.5, 0.5, 0.5, low, low, low])


def test_by_epoch_a_warmup_longer_than_the_first_epoch_is_broken_off():
    found = by_epoch(epochs=3, per_epoch=2, warmup=100, lowest=0.2, start=0.0)
    assert found == pytest.approx([0.0, 0.01, 0.8, 0.8, 0.4, 0.4])


@pytest.mark.parametrize(("epochs", "per_epoch", "warmup"), [(10, 875, 5000), (10, 1367, 2000), (5, 40, 7), (1, 9, 3)])
def test_by_epoch_it_is_the_original_s(epochs, per_epoch, warmup):
    course = (epochs, per_epoch, warmup, 0.1, 0.01)
    assert by_epoch(*course) == pytest.approx(the_original(*course), abs=1e-12)


def test_by_epoch_without_warmup_the_first_is_at_the_peak():
    assert by_epoch(epochs=2, per_epoch=2, warmup=0, lowest=0.0, start=0.0) == pytest.approx([1, 1, 0.5, 0.5])

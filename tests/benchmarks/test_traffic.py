"""The plan's formula against what the kernel has sent on two and three ranks of this machine."""

import pytest

from benchmarks.traffic import FULL, SMALL, measured, predicted, travelling, work_of


def test_the_parts_at_blip_2_s_size():
    parts = predicted(work_of(FULL, rows=64, patches=257), 1000)
    assert parts["gradients"] == pytest.approx(2 * 0.999 * 186.7e6 * 4, rel=1e-3)
    assert parts["embeddings"] == 999 * 64 * 33 * 256 * 4
    assert parts["negatives' patches"] == pytest.approx(64 * 257 * 1408 * 2, rel=2e-3)


def test_negatives_that_travel():
    assert travelling(5, 1) == 0
    assert travelling(1, 2) == 1  # the only other row
    assert travelling(2, 2) == pytest.approx(2 * (1 - (2 / 3) ** 2))


@pytest.mark.parametrize("world", [2, 3])
def test_what_is_sent_is_what_was_predicted(world):
    work = work_of(SMALL, rows=8, patches=65)
    total = sum(predicted(work, world).values())
    assert measured(work, world) == pytest.approx([total] * world, rel=0.01)

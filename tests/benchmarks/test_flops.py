"""The counts of a step at BLIP-2's size against those that torch's counter confirmed on the running original."""

import pytest

from benchmarks.flops import Language, lavis_stage1, minimal_itm, minimal_stage1, minimal_stage2

GIGA = 1e9


def test_the_original_s_step():
    assert lavis_stage1(8) / GIGA == pytest.approx(1924.2, abs=0.05)


@pytest.mark.parametrize(("length", "expected"), [(11, 912.6), (32, 1348.4)])
def test_the_least_that_a_step_takes(length, expected):
    assert minimal_stage1([length] * 8) / GIGA == pytest.approx(expected, abs=0.1)


def test_texts_of_all_lengths_cost_about_what_texts_of_their_mean_do():
    assert minimal_stage1([6, 16] * 4) == pytest.approx(minimal_stage1([11] * 8), rel=1e-3)


def test_a_look_at_sixteen_texts():
    assert minimal_itm(16, 11) / GIGA == pytest.approx(132.2, abs=0.5)


def test_stage_2_before_opt_125m():
    assert minimal_stage2([11] * 8, Language()) / GIGA == pytest.approx(384.8, rel=0.01)

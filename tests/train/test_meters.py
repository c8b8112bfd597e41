import json
import math

import pytest
import torch

from isthmus.train.meters import Meters


def numbers(**values):
    return {name: torch.tensor(float(value)) for name, value in values.items()}


def test_means_are_weighted_by_each_terms_own_weight_and_start_anew():
    meters = Meters()
    meters.add(numbers(itc=6, itg=10), numbers(itc=2, itg=10))
    meters.add(numbers(itc=2, itg=5), numbers(itc=2, itg=40))
    assert meters.read() == {"itc": 2.0, "itg": 0.30000001192092896}
    assert meters.read() == {}
    meters.add(numbers(itc=5), numbers(itc=1))
    assert meters.read() == {"itc": 5.0}


def test_no_weight_at_all_is_zero():
    meters = Meters()
    meters.add(numbers(itm=0), numbers(itm=0))
    assert meters.read() == {"itm": 0.0}


def test_it_keeps_no_graph():
    meters = Meters()
    total = torch.ones((), requires_grad=True) * 3
    meters.add({"lm": total}, numbers(lm=1))
    assert not meters._sums["lm"].requires_grad


def test_what_is_not_finite_is_shown():
    meters = Meters()
    meters.add(numbers(itc=math.nan, itg=1), numbers(itc=1, itg=1))
    meters.add(numbers(itc=1, itg=2), numbers(itc=1, itg=1))
    means = meters.read()
    assert math.isnan(means["itc"]) and means["itg"] == 1.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_was_saved_goes_on_bit_for_bit(dtype):
    def third(number):
        return {"itc": torch.tensor(number / 3, dtype=dtype)}

    whole, first, second = Meters(), Meters(), Meters()
    for number in range(1, 4):
        whole.add(third(number), third(1))
    for number in range(1, 3):
        first.add(third(number), third(1))
    second.load([json.loads(json.dumps(first.state()))], torch.device("cpu"))
    second.add(third(3), third(1))
    assert second.read() == whole.read()


def test_the_sums_of_ranks_that_are_gone_are_added_up():
    parts = [Meters(), Meters()]
    for number, part in enumerate(parts):
        part.add(numbers(itc=number + 1), numbers(itc=2))
    joined = Meters()
    joined.load([part.state() for part in parts], torch.device("cpu"))
    assert joined.read() == {"itc": 0.75}

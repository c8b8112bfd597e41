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

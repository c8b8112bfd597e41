from pathlib import Path

import pytest

from isthmus.data.mixture import Mixture, Part
from isthmus.data.sampler import CounterSampler, MixtureSampler
from isthmus.errors import DataError
from isthmus.records import Example, Source


def source(name, size):
    return [Example(Path(f"{name}{index}.png"), f"{index}", (f"{name} {index}",)) for index in range(size)]


def mixture(*weights):
    return Mixture(
        [Part(name, source(name, size), weight) for name, size, weight in zip("abc", (2, 3, 4), weights, strict=True)]
    )


def captions(examples):
    return [examples[index].captions[0] for index in range(len(examples))]


def test_parts_stand_one_after_the_other():
    mixed = mixture(None, None, None)
    assert isinstance(mixed, Source) and len(mixed) == 9
    assert captions(mixed) == ["a 0", "a 1", "b 0", "b 1", "b 2", "c 0", "c 1", "c 2", "c 3"]
    assert mixed.spans == (range(2), range(2, 5), range(5, 9))
    with pytest.raises(IndexError):
        mixed[9]


def test_an_id_counts_within_its_part():
    mixed = Mixture([Part("a", source("a", 1)), Part("b", source("b", 1)), Part("a", source("c", 1))])
    assert [mixed[index].image_id for index in range(3)] == ["a: 0", "b: 0", "a: 0"]
    assert Mixture([Part("a", source("a", 1))])[0].image_id == "0"


def test_rows_are_left_out_and_empty_parts_go():
    kept = mixture(None, None, None).keep([False, False, True, False, True, False, True, True, True])
    assert captions(kept) == ["b 0", "b 2", "c 1", "c 2", "c 3"]
    assert [part.name for part in kept.parts] == ["b", "c"] and kept.spans == (range(2), range(2, 5))
    again = kept.keep([True, True, False, False, False])
    assert captions(again) == ["b 0", "b 2"] and again[0].image_id == "0"


def test_one_part_is_one_permutation_and_several_go_by_weight():
    alone = Mixture([Part("a", source("a", 8))]).sampler(2, seed=1)
    assert type(alone) is CounterSampler
    by_size, by_weight = mixture(None, None, None).sampler(3, seed=1), mixture(1.0, 1.0, 2.0).sampler(2, seed=1)
    assert isinstance(by_size, MixtureSampler) and by_size.quotas == [2, 3, 4]
    assert isinstance(by_weight, MixtureSampler) and by_weight.quotas == [2, 2, 4]


def test_a_weight_that_earns_no_row_is_refused():
    with pytest.raises(DataError, match=r"^b: the weight 0\.001 earns this source no row in an epoch of 9; raise it"):
        mixture(1.0, 0.001, 1.0).sampler(3, seed=1)

from itertools import chain

import pytest

from isthmus.data.sampler import CounterSampler, sequential_batches
from isthmus.errors import ConfigError, DataError


def test_an_epoch_sees_each_row_at_most_once_and_drops_the_short_batch():
    sampler = CounterSampler(11, 4, seed=3)
    batches = list(sampler.epoch_batches(0))
    seen = [index for batch in batches for index in batch]
    assert sampler.batches_per_epoch == len(batches) == 2
    assert [len(batch) for batch in batches] == [4, 4]
    assert len(set(seen)) == 8 and set(seen) <= set(range(11))


def test_order_is_a_function_of_seed_and_epoch():
    order = [list(CounterSampler(12, 4, seed=3).epoch_batches(epoch)) for epoch in (0, 1, 0)]
    assert order[0] == order[2] != order[1]
    assert order[0] != list(CounterSampler(12, 4, seed=4).epoch_batches(0))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_slices_concatenate_to_the_batch_of_one_process(world_size):
    alone = list(CounterSampler(13, 4, seed=1).epoch_batches(2))
    ranks = [
        CounterSampler(13, 4, seed=1, rank=rank, world_size=world_size).epoch_batches(2) for rank in range(world_size)
    ]
    assert [list(chain(*shares)) for shares in zip(*ranks, strict=True)] == alone


def test_an_epoch_continues_from_any_batch():
    sampler = CounterSampler(12, 3, seed=5)
    assert list(sampler.epoch_batches(1, start=2)) == list(sampler.epoch_batches(1))[2:]


def test_steps_cross_epochs_and_start_anywhere():
    sampler = CounterSampler(7, 3, seed=5)
    whole = list(sampler.steps(0, 7))
    assert [epoch for epoch, _ in whole] == [0, 0, 1, 1, 2, 2, 3]
    assert [indices for _, indices in whole[2:4]] == list(sampler.epoch_batches(1))
    for start in range(8):
        assert list(sampler.steps(start, 7)) == whole[start:]


def test_a_source_below_one_batch_is_refused():
    with pytest.raises(DataError, match=r"has 3 rows, fewer than one global batch of 4; choose a smaller"):
        CounterSampler(3, 4, seed=0)


def test_a_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(ConfigError, match=r"global batch of 6 rows cannot be shared evenly by 4 processes"):
        CounterSampler(30, 6, seed=0, world_size=4)


def test_sequential_order_keeps_the_short_batch():
    assert list(sequential_batches(5, 2)) == [[0, 1], [2, 3], [4]]
    assert list(sequential_batches(0, 2)) == []


def test_sequential_ranks_see_each_row_once():
    shares = [list(sequential_batches(5, 2, rank=rank, world_size=2)) for rank in (0, 1)]
    assert shares == [[[0, 1]], [[2, 3], [4]]]

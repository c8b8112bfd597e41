from itertools import chain, pairwise
from pathlib import Path

import pytest

from isthmus.data.lengths import CaptionLengths
from isthmus.data.sampler import WINDOW, CounterSampler, Drawn, MixtureSampler, sequential_batches
from isthmus.errors import ConfigError, DataError
from isthmus.records import Example


def test_an_epoch_sees_each_row_at_most_once_and_drops_the_short_batch():
    sampler = CounterSampler(11, 4, seed=3)
    batches = list(sampler.epoch_batches(0))
    seen = [visit.row for batch in batches for visit in batch]
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
    ranks = [CounterSampler(13, 4, seed=1, share=(rank, world_size)).epoch_batches(2) for rank in range(world_size)]
    assert [list(chain(*shares)) for shares in zip(*ranks, strict=True)] == alone


def test_an_epoch_continues_from_any_batch():
    sampler = CounterSampler(12, 3, seed=5)
    assert list(sampler.epoch_batches(1, start=2)) == list(sampler.epoch_batches(1))[2:]


def test_steps_cross_epochs_and_start_anywhere():
    sampler = CounterSampler(7, 3, seed=5)
    whole = list(sampler.steps(0, 7))
    assert [visits[0].epoch for visits in whole] == [0, 0, 1, 1, 2, 2, 3]
    assert whole[2:4] == list(sampler.epoch_batches(1))
    for start in range(8):
        assert list(sampler.steps(start, 7)) == whole[start:]


def test_a_source_below_one_batch_is_refused():
    with pytest.raises(DataError, match=r"has 3 rows, fewer than one global batch of 4; choose a smaller"):
        CounterSampler(3, 4, seed=0)


def test_a_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(ConfigError, match=r"global batch of 6 rows cannot be shared evenly by 4 processes"):
        CounterSampler(30, 6, seed=0, share=(0, 4))


def test_sequential_order_keeps_the_short_batch():
    assert list(sequential_batches(5, 2)) == [[0, 1], [2, 3], [4]]
    assert list(sequential_batches(0, 2)) == []


def test_sequential_ranks_see_each_row_once():
    shares = [list(sequential_batches(5, 2, share=(rank, 2))) for rank in (0, 1)]
    assert shares == [[[0, 1]], [[2, 3], [4]]]


def test_every_row_of_a_run_has_its_own_place_on_any_rank():
    ranks = [list(CounterSampler(7, 4, seed=5, share=(rank, 2)).steps(0, 5)) for rank in (0, 1)]
    places = (
        [[visit.place for visit in visits] for visits in ranks[0]],
        [[v.place for v in visits] for visits in ranks[1]],
    )
    assert places == (
        [[4 * step, 4 * step + 1] for step in range(5)],
        [[4 * step + 2, 4 * step + 3] for step in range(5)],
    )


def counted(sampler, steps, edges):
    """The slow way: rows and different rows of each part, by drawing them all."""
    rows = [visit.row for visits in sampler.steps(0, steps) for visit in visits]
    parts = [[row for row in rows if low <= row < high] for low, high in pairwise(edges)]
    return tuple(Drawn(len(part), len(set(part))) for part in parts)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7, 40])
def test_what_one_source_gave_is_counted(steps):
    sampler = CounterSampler(11, 4, seed=3)
    assert sampler.drawn(steps) == counted(sampler, steps, [0, 11])


PARTS = [(5, 1.0), (12, 2.0), (3, 3.0)]


@pytest.mark.parametrize("steps", [0, 1, 4, 5, 6, 23, 60])
def test_what_several_sources_gave_is_counted(steps):
    sampler = MixtureSampler(PARTS, 4, seed=3)
    assert sampler.drawn(steps) == counted(sampler, steps, [0, 5, 17, 20])


def test_every_epoch_has_the_sources_shares():
    sampler = MixtureSampler(PARTS, 4, seed=3)
    assert sampler.quotas == [3, 7, 10] and sampler.batches_per_epoch == 5
    for epoch in range(4):
        rows = [visit.row for visits in sampler.epoch_batches(epoch) for visit in visits]
        assert [sum(low <= row < high for row in rows) for low, high in pairwise([0, 5, 17, 20])] == [3, 7, 10]


def test_within_a_source_each_example_is_drawn_once_before_any_is_drawn_twice():
    visits = [visit for visits in MixtureSampler(PARTS, 4, seed=3).steps(0, 60) for visit in visits]
    for low, high in pairwise([0, 5, 17, 20]):
        drawn = [visit for visit in visits if low <= visit.row < high]
        for start in range(0, len(drawn), high - low):
            one_round = drawn[start : start + high - low]
            assert len({visit.row for visit in one_round}) == len(one_round)
            assert {visit.epoch for visit in one_round} == {start // (high - low)}


def test_a_mixtures_order_is_keyed_shared_by_ranks_and_resumed_anywhere():
    alone = list(MixtureSampler(PARTS, 4, seed=3).steps(0, 30))
    assert alone == list(MixtureSampler(PARTS, 4, seed=3).steps(0, 30))
    assert alone != list(MixtureSampler(PARTS, 4, seed=4).steps(0, 30))
    left, right = (list(MixtureSampler(PARTS, 4, seed=3, share=(rank, 2)).steps(0, 30)) for rank in (0, 1))
    assert [a + b for a, b in zip(left, right, strict=True)] == alone
    for start in range(30):
        assert list(MixtureSampler(PARTS, 4, seed=3).steps(start, 30)) == alone[start:]


def test_sources_are_mixed_within_an_epoch():
    first, *_ = MixtureSampler([(100, 1.0), (100, 1.0)], 50, seed=0).epoch_batches(0)
    assert 10 < sum(visit.row < 100 for visit in first) < 40


def kept(length, share=(0, 1), *, mixed=False, by_length=False, batch=6):
    """A sampler that keeps what does not fill an epoch's last batch."""
    texts = [Example(Path(), "", ("x" * (7 * row % 40),)) for row in range(length)]
    lengths = CaptionLengths(texts, 3) if by_length else None
    if mixed:
        parts = [(length - length // 3, 1.0), (length // 3, 2.0)]
        return MixtureSampler(parts, batch, seed=3, share=share, lengths=lengths, keep_last=True)
    return CounterSampler(length, batch, seed=3, share=share, lengths=lengths, keep_last=True)


KINDS = pytest.mark.parametrize(
    "kind", [{}, {"mixed": True}, {"by_length": True}, {"mixed": True, "by_length": True}], ids=str
)


@KINDS
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("length", [3, 5, 6, 12, 13, 14, 15, 16, 17, 6 * WINDOW + 8])
def test_of_batches_that_are_kept_each_row_counts_once_on_any_number_of_ranks(length, world_size, kind):
    """Lengths that leave ranks empty among them: of 13 rows the last batch has one."""
    for epoch in (0, 1):
        alone = list(kept(length, **kind).epoch_batches(epoch))
        assert [len(batch) for batch in alone] == [min(6, length - first) for first in range(0, length, 6)]
        assert {visit.counted for batch in alone for visit in batch} == {None}
        if not kind.get("mixed"):
            assert sorted(visit.row for batch in alone for visit in batch) == list(range(length))
        ranks = [kept(length, (rank, world_size), **kind).epoch_batches(epoch) for rank in range(world_size)]
        for whole, *shares in zip(alone, *ranks, strict=True):
            counts = [sum(visit.counted is not False for visit in share) for share in shares]
            assert counts == sorted(counts, reverse=True) and counts[0] - counts[-1] <= 1 and sum(counts) == len(whole)
            assert {len(share) for share in shares} == {counts[0]}, "collectives are of one size"
            marks = {visit.counted is None for share in shares for visit in share}
            assert marks == {len(whole) % world_size == 0}, "all ranks have a mask, or none has"
            own = [[visit for visit in share if visit.counted is not False] for share in shares]
            assert [visit._replace(counted=None) for visit in chain(*own)] == whole
            for mine, share in zip(own, shares, strict=True):
                copied = [*mine, whole[0]][0]._replace(counted=False)
                assert share[len(mine) :] == [copied] * (len(share) - len(mine))


@KINDS
@pytest.mark.parametrize("steps", [0, 1, 3, 7, 8, 9, 24, 50])
def test_what_was_drawn_is_counted_where_batches_are_kept(steps, kind):
    edges = [0, 30, 45] if kind.get("mixed") else [0, 45]
    assert kept(45, **kind).batches_per_epoch == 8
    for rank in (0, 1):
        assert kept(45, (rank, 2), **kind).drawn(steps) == counted(kept(45, **kind), steps, edges)


@KINDS
def test_kept_batches_are_found_again_from_any_step(kind):
    whole = list(kept(45, **kind).steps(0, 25))
    assert len({visit.place for visits in whole for visit in visits}) == 3 * 45 + 6
    for start in range(26):
        assert list(kept(45, **kind).steps(start, 25)) == whole[start:]


def test_where_batches_are_kept_a_mixture_s_epoch_has_all_rows():
    by_size = MixtureSampler([(5, 5.0), (9, 9.0)], 4, seed=3, keep_last=True)
    assert by_size.quotas == [5, 9]
    for epoch in range(3):
        rows = [visit.row for visits in by_size.epoch_batches(epoch) for visit in visits]
        assert sorted(rows) == list(range(14))


def test_a_source_without_rows_is_refused_all_the_same():
    with pytest.raises(DataError, match=r"has 0 rows"):
        kept(0)

"""Batches of captions of like length: the same rows, in an order that only seed and epoch decide, with less padding."""

from itertools import chain, pairwise
from pathlib import Path

import pytest
import torch

from isthmus.data.lengths import CaptionLengths, like_lengths
from isthmus.data.loader import TrainingRows, make_loader
from isthmus.data.mixture import Mixture, Part
from isthmus.data.sampler import WINDOW, CounterSampler, Drawn, MixtureSampler
from isthmus.data.workers import Workers
from isthmus.records import Example, Source, Text

BATCH, SIZE = 4, 4 * 75 + 3
"""Of 75 batches in an epoch, the third window has 11."""
PARTS = [(50, 1.0), (200, 2.0), (20, 3.0)]


def source(size: int = SIZE, name: str = "a") -> Source:
    """Two captions a picture, of 1 to 40 words, most of them short."""
    draws = torch.rand(size, 2, generator=torch.Generator().manual_seed(0)).pow(3).mul(40).int().add(1).tolist()
    return [
        Example(Path(f"{name}{row}.png"), f"{name}{row}", tuple(" ".join(["word"] * count) for count in counts))
        for row, counts in enumerate(draws)
    ]


def sampler(seed=1, **ranks):
    return CounterSampler(SIZE, BATCH, seed=seed, lengths=CaptionLengths(source(), seed), **ranks)


def mixture_sampler(**ranks):
    size = sum(size for size, _ in PARTS)
    return MixtureSampler(PARTS, BATCH, seed=3, lengths=CaptionLengths(source(size), 3), **ranks)


MAKERS = pytest.mark.parametrize("make", [sampler, mixture_sampler])


def rows_of(visits):
    return [(visit.epoch, visit.row) for visit in visits]


def test_lengths_are_those_of_the_captions_that_rows_are_trained_with():
    given = source(20)
    rows = TrainingRows(given, lambda example, index, epoch: torch.zeros(1), seed=5)
    visits = [(epoch, row) for epoch in range(3) for row in range(20)]
    lengths = CaptionLengths(given, 5)(*map(torch.tensor, zip(*visits, strict=True)))
    plain = CounterSampler(20, 20, seed=5)
    trained = {(v.epoch, v.row): len(rows[v].caption) for visits in plain.steps(0, 3) for v in visits}
    assert lengths.tolist() == [trained[visit] for visit in visits]


def test_a_question_is_read_too():
    asked = [Example(Path("a.png"), "a", ("yes",), ("Is it red?",))]
    assert CaptionLengths(asked, 0)(torch.tensor([0]), torch.tensor([0])).tolist() == [13]


def test_rows_of_like_length_share_a_batch_and_batches_come_in_a_drawn_order():
    lengths = torch.tensor([5, 1, 9, 2, 8, 2, 7, 3])
    order = like_lengths(lengths, 2, 1)
    batches = [lengths[rows].tolist() for rows in order.view(-1, 2)]
    assert sorted(batches) == [[1, 2], [2, 3], [5, 7], [8, 9]]
    assert len({tuple(like_lengths(lengths, 2, key).tolist()) for key in range(20)}) > 5
    assert like_lengths(torch.ones(6, dtype=torch.long), 6, 0).tolist() == list(range(6)), "equals keep their order"


def test_rows_that_fill_no_batch_come_last_and_are_of_any_like_length():
    lengths = torch.tensor([5, 1, 9, 2, 8, 2, 7, 3])
    seen = set()
    for key in range(40):
        order = lengths[like_lengths(lengths, 3, key)].tolist()
        assert sorted(order) == sorted(lengths.tolist())
        seen.add(tuple(order[6:]))
        assert {tuple(order[:3]), tuple(order[3:6])} <= {(1, 2, 2), (3, 5, 7), (2, 3, 5), (7, 8, 9), (5, 7, 8)}
    assert len(seen) == 3
    assert sorted(like_lengths(lengths[:2], 3, 0).tolist()) == [0, 1], "nothing but a short batch"


@MAKERS
def test_each_window_has_the_rows_it_would_have_unsorted(make):
    grouped, plain = make(), make()
    plain._lengths = None
    for epoch in (0, 1):
        ours, theirs = list(grouped.epoch_batches(epoch)), list(plain.epoch_batches(epoch))
        assert ours != theirs
        for first in range(0, len(ours), WINDOW):
            windows = (sorted(rows_of(chain(*order[first : first + WINDOW]))) for order in (ours, theirs))
            assert len({tuple(window) for window in windows}) == 1
        places = [[visit.place for visit in visits] for visits in theirs]
        assert [[visit.place for visit in visits] for visits in ours] == places


@MAKERS
def test_the_order_is_a_function_of_seed_and_epoch(make):
    once, again = make(), make()
    assert list(once.epoch_batches(1)) == list(again.epoch_batches(1))
    assert list(once.epoch_batches(1)) != list(once.epoch_batches(0))
    if make is sampler:
        assert list(make(seed=2).epoch_batches(1)) != list(once.epoch_batches(1))


@MAKERS
def test_ranks_slices_concatenate_to_the_batch_of_one_process(make):
    alone = list(make().steps(0, 80))
    ranks = [make(share=(rank, 2)).steps(0, 80) for rank in (0, 1)]
    assert [list(chain(*shares)) for shares in zip(*ranks, strict=True)] == alone


@MAKERS
@pytest.mark.parametrize("start", [1, WINDOW - 1, WINDOW, 50, 74, 76])
def test_a_run_goes_on_from_any_step(make, start):
    assert list(make().steps(start, 80)) == list(make().steps(0, 80))[start:]


@MAKERS
@pytest.mark.parametrize("steps", [0, 1, WINDOW, 40, 70, 100, 145])
def test_what_was_drawn_is_counted(make, steps):
    """The slow way: by drawing them all."""
    visits = list(chain(*make().steps(0, steps)))
    edges = [0, SIZE] if make is sampler else [0, 50, 250, 270]
    parts = [[v.row for v in visits if low <= v.row < high] for low, high in pairwise(edges)]
    assert make().drawn(steps) == tuple(Drawn(len(part), len(set(part))) for part in parts)


def tokenize(captions):
    ids = torch.tensor([[len(caption)] for caption in captions])
    return Text(ids, torch.ones_like(ids, dtype=torch.bool))


def loaded(workers):
    rows = TrainingRows(source(), lambda example, index, epoch: torch.zeros(1), seed=1)
    return list(make_loader(rows, sampler(), steps=range(60, 80), tokenize=tokenize, workers=Workers(workers)))


def test_batches_are_the_same_from_workers():
    for ours, theirs in zip(loaded(0), loaded(1), strict=True):
        assert ours.captions == theirs.captions and torch.equal(ours.index, theirs.index)


def padding(order):
    """The share of padding in words, as batches are padded to their longest caption."""
    rows = TrainingRows(source(), lambda example, index, epoch: torch.zeros(1), seed=1)
    counts = [[len(rows[visit].caption.split()) for visit in visits] for visits in order.epoch_batches(0)]
    padded = sum(len(batch) * max(batch) for batch in counts)
    return 1 - sum(map(sum, counts)) / padded


def test_padding_falls_to_a_fraction():
    before, after = padding(CounterSampler(SIZE, BATCH, seed=1)), padding(sampler())
    assert before > 0.45 and after < 0.1


def test_a_mixture_sorts_where_it_is_asked_to():
    one = Mixture([Part("a", source(40))])
    two = Mixture([Part("a", source(40)), Part("b", source(30, "b"))])
    for mixed in (one, two):
        plain, sorted_ = mixed.sampler(4, seed=1), mixed.sampler(4, seed=1, by_length=True)
        ours, theirs = list(sorted_.epoch_batches(0)), list(plain.epoch_batches(0))
        assert ours != theirs and sorted(rows_of(chain(*ours))) == sorted(rows_of(chain(*theirs)))

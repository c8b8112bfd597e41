"""What a run is given is a function of its step alone: not of where it began, who loads it, or how many share it.

Every kind of order, with questions, keyed views and broken pictures in it, over three epochs and from several windows.
"""

from functools import cache
from itertools import cycle
from pathlib import Path

import pytest
import torch

from isthmus.data.loader import TrainingRows, crop_draws, make_loader
from isthmus.data.mixture import Mixture, Part
from isthmus.data.workers import Workers
from isthmus.errors import DataError
from isthmus.records import Example, Text

BATCH, BROKEN = 6, (3, 11, 30)


def part(name, size, weight=None):
    texts = [[f"{name}{row} {letter}" + "x" * (7 * row % 23) for letter in "abc"] for row in range(size)]
    asked = [tuple(f"which, {text}?" for text in three) for three in texts]
    rows = [
        Example(Path(f"{name}{row}.png"), f"{row // 2}", tuple(three), questions)
        for row, (three, questions) in enumerate(zip(texts, asked, strict=True))
    ]
    return Part(name, rows, weight)


SOURCES = {
    "one source": Mixture([part("a", 40)]),
    "several by size": Mixture([part("a", 25), part("b", 15)]),
    "several by weight": Mixture([part("a", 25, 1.0), part("b", 15, 2.0)]),
}
KINDS = [(source, by_length, last) for source in SOURCES for by_length in (False, True) for last in ("drop", "keep")]
ORDERS = pytest.mark.parametrize("order", KINDS, ids=str)


def look(example, index, epoch):
    if index in BROKEN:
        raise DataError(f"{example.image}: the picture is broken.")
    return torch.tensor([index, *crop_draws(7, epoch, index)])


def tokenize(texts):
    ids = torch.tensor([[len(text), *map(ord, text[:4])] for text in texts])
    return Text(ids, torch.ones_like(ids, dtype=torch.bool))


@pytest.fixture(autouse=True, scope="module")
def _several_windows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isthmus.data.sampler.WINDOW", 3)
        yield


def per_epoch(last):
    return 6 if last == "drop" else 7


def batches(order, start, stop, *, workers=0, share=(0, 1)):
    source, by_length, last = order
    mixture = SOURCES[source]
    rows = TrainingRows(mixture, look, seed=5, refill=True, spans=mixture.spans)
    sampler = mixture.sampler(BATCH, seed=5, share=share, by_length=by_length, keep_last=last == "keep")
    assert sampler.batches_per_epoch == per_epoch(last)
    return list(make_loader(rows, sampler, steps=range(start, stop), tokenize=tokenize, workers=Workers(workers)))


def rows_of(batch):
    """All that a row of a batch is, for the rows that count."""
    counted = [True] * len(batch) if batch.counted is None else batch.counted.tolist()
    columns = (
        batch.index.tolist(),
        batch.vision.tolist(),
        batch.captions,
        batch.questions,
        batch.text.ids.tolist(),
        batch.instruction.ids.tolist(),
        batch.identity.image.tolist(),
        batch.identity.caption.tolist(),
    )
    return [row for row, counts in zip(zip(*columns, strict=True), counted, strict=True) if counts]


@cache
def whole(order):
    """Three epochs of one process that was never stopped and loads by itself."""
    given = [rows_of(batch) for batch in batches(order, 0, 3 * per_epoch(order[2]))]
    assert not {row[0] for batch in given for row in batch} & set(BROKEN)
    return given


@ORDERS
def test_a_run_goes_on_from_any_step(order):
    end = len(whole(order))
    for start in (1, 6, 7, 14, end):
        assert [rows_of(batch) for batch in batches(order, start, end)] == whole(order)[start:]


CHANGES = list(zip(KINDS, cycle([(0, 4, 2), (2, 9, 1), (1, 6, 0)]), strict=False))


@pytest.mark.parametrize(("order", "change"), CHANGES, ids=str)
def test_another_number_of_workers_goes_on_with_the_same_rows(order, change):
    before, stop, after = change
    given = [
        *batches(order, 0, stop, workers=before),
        *batches(order, stop, len(whole(order)), workers=after),
    ]
    assert [rows_of(batch) for batch in given] == whole(order)


@ORDERS
@pytest.mark.parametrize("world_size", [2, 3])
def test_several_ranks_go_on_with_the_same_rows_together(order, world_size):
    """Begun by one process, gone on with by several: their rows that count, in their order, are its own."""
    end = len(whole(order))
    ranks = [batches(order, 4, end, share=(rank, world_size)) for rank in range(world_size)]
    for expected, *shares in zip(whole(order)[4:], *ranks, strict=True):
        assert len({len(share) for share in shares}) == 1
        assert [row for share in shares for row in rows_of(share)] == expected


def test_ranks_load_with_workers_what_they_load_alone():
    order = ("several by weight", True, "keep")
    for rank in range(3):
        alone, helped = (batches(order, 5, 14, share=(rank, 3), workers=workers) for workers in (0, 1))
        assert [rows_of(batch) for batch in alone] == [rows_of(batch) for batch in helped]
        for left, right in zip(alone, helped, strict=True):
            assert (left.counted is None) == (right.counted is None)
            assert left.counted is None or torch.equal(left.counted, right.counted)

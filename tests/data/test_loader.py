import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from isthmus.data.broken import BrokenPictures
from isthmus.data.collate import Row, collate
from isthmus.data.loader import (
    EvaluationRows,
    TrainingRows,
    crop_draws,
    evaluation_loader,
    make_loader,
)
from isthmus.data.sampler import CounterSampler, Visit
from isthmus.data.workers import Workers
from isthmus.errors import DataError, StoreError
from isthmus.fingerprint import text_identity
from isthmus.records import Example, Text

SOURCE = [
    Example(Path(f"{index}.jpg"), f"thing {index // 2}", (f"a {index}", f"b {index}", f"c {index}"))
    for index in range(10)
]


def tokenize(captions):
    ids = torch.tensor([[len(caption), ord(caption[0])] for caption in captions])
    return Text(ids, torch.ones_like(ids, dtype=torch.bool))


def look(example, index, epoch):
    return torch.tensor([index, *crop_draws(7, epoch, index)])


def broken_look(example, index, epoch):
    if index == 4:
        raise DataError("4.jpg: the picture is broken.")
    return torch.zeros(1)


def batches(workers=0, start=0, stop=7, seed=1, **ranks):
    sampler = CounterSampler(len(SOURCE), 4, seed=seed, **ranks)
    rows = TrainingRows(SOURCE, look, seed=seed)
    loader = make_loader(rows, sampler, steps=range(start, stop), tokenize=tokenize, workers=Workers(workers))
    assert len(loader) == stop - start
    return list(loader)


def assert_equal(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.captions == b.captions
        assert torch.equal(a.vision, b.vision) and torch.equal(a.index, b.index) and torch.equal(a.epoch, b.epoch)
        assert torch.equal(a.text.ids, b.text.ids) and torch.equal(a.text.mask, b.text.mask)
        assert torch.equal(a.identity.image, b.identity.image)
        assert torch.equal(a.identity.caption, b.identity.caption)


def test_collate_stacks_and_hashes():
    rows = [
        Row(torch.full((2, 3), 1.0, dtype=torch.bfloat16), "A boat", "x", 5),
        Row(torch.full((2, 3), 2.0, dtype=torch.bfloat16), "a boat", "y", 1),
    ]
    batch = collate(rows, tokenize=tokenize)
    assert batch.vision.shape == (2, 2, 3) and batch.vision.dtype == torch.bfloat16
    assert batch.captions == ("A boat", "a boat")
    assert batch.index.tolist() == [5, 1]
    assert batch.identity.image.tolist() == [text_identity("x"), text_identity("y")]


def test_captions_are_the_same_when_the_qformer_reads_the_same_tokens():
    def first_two_letters(captions):
        ids = torch.tensor([[ord(letter) for letter in caption[:2].lower()] for caption in captions])
        return Text(ids, torch.ones_like(ids, dtype=torch.bool))

    rows = [Row(torch.zeros(1), caption, str(n), n) for n, caption in enumerate(["A boat", "a bird", "cart"])]
    same = collate(rows, tokenize=first_two_letters).identity.caption
    assert same[0] == same[1] != same[2]


def test_padding_is_no_part_of_a_captions_identity():
    def padded(captions):
        ids = torch.tensor([[7, 0], [7, 0], [7, 0]])
        return Text(ids, torch.tensor([[True, False], [True, True], [True, False]]))

    rows = [Row(torch.zeros(1), "x", str(n), n) for n in range(3)]
    same = collate(rows, tokenize=padded).identity.caption
    assert same[0] == same[2] != same[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_identical_batches(workers):
    assert_equal(batches(workers), batches(0))


def test_resume_in_any_epoch_continues_the_run():
    assert_equal(batches(start=3), batches()[3:])


def test_two_ranks_concatenate_to_one_process():
    alone = batches()
    left, right = (batches(share=(rank, 2)) for rank in (0, 1))
    for whole, a, b in zip(alone, left, right, strict=True):
        assert whole.captions == a.captions + b.captions
        assert torch.equal(whole.vision, torch.cat([a.vision, b.vision]))


def test_captions_are_drawn_by_seed_epoch_and_index():
    rows = TrainingRows(SOURCE, look, seed=1)
    drawn = [rows[Visit(epoch, 0)].caption for epoch in range(60)]
    assert drawn == [TrainingRows(SOURCE, look, seed=1)[Visit(epoch, 0)].caption for epoch in range(60)]
    counts = Counter(drawn)
    assert set(counts) == {"a 0", "b 0", "c 0"} and min(counts.values()) > 8
    assert drawn != [rows[Visit(epoch, 1)].caption.replace("1", "0") for epoch in range(60)]
    assert drawn != [TrainingRows(SOURCE, look, seed=2)[Visit(epoch, 0)].caption for epoch in range(60)]


def test_crop_draws_are_keyed_numbers_within_0_and_1():
    assert len(crop_draws(1, 2)) == 8 and all(0 < draw < 1 for draw in crop_draws(1, 2))
    assert crop_draws(1, 2) == crop_draws(1, 2) != crop_draws(2, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_is_in_order_with_first_captions(workers):
    loader = evaluation_loader(EvaluationRows(SOURCE, look), 4, tokenize=tokenize, workers=Workers(workers))
    seen = list(loader)
    assert [len(batch) for batch in seen] == [4, 4, 2] and len(loader) == 3
    assert sum((batch.captions for batch in seen), ()) == tuple(f"a {index}" for index in range(10))
    assert torch.equal(seen[2].vision, torch.stack([look(None, index, 0) for index in (8, 9)]))
    assert_equal(seen, list(loader))


def test_evaluation_ranks_share_the_rows():
    rows = EvaluationRows(SOURCE, look)
    shares = [
        [i for batch in evaluation_loader(rows, 4, tokenize=tokenize, share=(rank, 3)) for i in batch.index]
        for rank in range(3)
    ]
    assert sorted(int(i) for share in shares for i in share) == list(range(10))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_row_is_named_as_it_was_raised(workers):
    loader = evaluation_loader(EvaluationRows(SOURCE, broken_look), 4, tokenize=tokenize, workers=Workers(workers))
    with pytest.raises(DataError, match=r"^4\.jpg: the picture is broken\.$"):
        list(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_no_global_generator_is_touched(workers):
    before = torch.get_rng_state()
    batches(workers)
    assert torch.equal(before, torch.get_rng_state())


def some_broken(example, index, epoch):
    if index in (1, 4, 8):
        raise DataError(f"{example.image}: the picture is broken.")
    return look(example, index, epoch)


SPANS = (range(5), range(5, 10))


def refilled(workers=0, start=0, broken=None, **ranks):
    sampler = CounterSampler(len(SOURCE), 4, seed=1, **ranks)
    rows = TrainingRows(SOURCE, some_broken, seed=1, refill=True, spans=SPANS)
    loader = make_loader(
        rows, sampler, steps=range(start, 7), tokenize=tokenize, workers=Workers(workers), broken=broken
    )
    return list(loader)


def test_another_row_of_the_same_source_stands_in_for_a_broken_one():
    whole, replaced = batches(), 0
    for before, after in zip(whole, refilled(), strict=True):
        assert len(before) == len(after) == 4
        for old, new, row in zip(before.index.tolist(), after.index.tolist(), range(4), strict=True):
            assert new not in (1, 4, 8) and (old < 5) == (new < 5)
            assert (old == new) or old in (1, 4, 8)
            assert after.captions[row] in SOURCE[new].captions
            assert after.identity.image[row] == text_identity(SOURCE[new].image_id)
            assert torch.equal(after.vision[row], look(SOURCE[new], new, int(after.epoch[row]))), (
                "found again by its keys"
            )
            replaced += old != new
    assert replaced >= 6


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_same_rows_in_place_of_broken_ones(workers):
    assert_equal(refilled(workers), refilled())


def test_resume_and_ranks_give_the_same_rows_in_place_of_broken_ones():
    assert_equal(refilled(start=3), refilled()[3:])
    left, right = (refilled(share=(rank, 2)) for rank in (0, 1))
    for whole, a, b in zip(refilled(), left, right, strict=True):
        assert whole.captions == a.captions + b.captions


def test_the_same_row_gets_another_in_its_place_in_another_epoch():
    rows = TrainingRows(SOURCE, some_broken, seed=1, refill=True)
    assert len({rows[Visit(epoch, 4, 12 * epoch)].index for epoch in range(20)}) > 3


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_picture_met_is_counted_and_every_bad_one_reported(workers, tmp_path):
    broken = BrokenPictures("skip", rate=0.9, output=tmp_path)
    loaded = refilled(workers, broken=broken)
    lines = [json.loads(line) for line in (tmp_path / "bad_images.jsonl").read_text().splitlines()]
    assert sorted(line["path"] for line in lines) == ["1.jpg", "4.jpg", "8.jpg"]
    assert {line["reason"] for line in lines} == {"the picture is broken."}
    assert broken._met == sum(map(len, loaded)) + broken._bad


def test_above_the_rate_the_run_stops(tmp_path, monkeypatch):
    monkeypatch.setattr("isthmus.data.broken._ENOUGH", 8)
    with pytest.raises(
        DataError, match=r"pictures cannot be read, more than the share of 0\.05 that data\.broken_rate"
    ):
        refilled(broken=BrokenPictures("skip", rate=0.05, output=tmp_path))


def test_a_source_of_which_nothing_can_be_read_is_refused():
    def nothing(example, index, epoch):
        raise DataError(f"{index}.jpg: the picture is broken.")

    assert isinstance(TrainingRows(SOURCE, nothing, seed=1, refill=True)[Visit(0, 3)], DataError)


def test_a_store_that_fails_is_no_broken_picture():
    def fails(example, index, epoch):
        raise StoreError("the shard is missing")

    assert isinstance(TrainingRows(SOURCE, fails, seed=1, refill=True)[Visit(0, 3)], StoreError)

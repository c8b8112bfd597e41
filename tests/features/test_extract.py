import errno
import json
import os
import shutil
from dataclasses import dataclass, replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from isthmus.data.broken import BrokenPictures
from isthmus.data.hashes import picture_hashes
from isthmus.data.loader import crop_draws
from isthmus.data.workers import Workers
from isthmus.errors import DataError, StoreError, WorkerError
from isthmus.features import extract as extraction
from isthmus.features.encode import Work
from isthmus.features.extract import extract, planned_bytes
from isthmus.features.key import Views, store_key
from isthmus.features.store import FeatureStore
from isthmus.files import write_atomically
from quadrants import TWO_ROWS, FakeEncoder, P, V, patches_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_bit_exact(pictures, tmp_path, dtype):
    encoder = FakeEncoder()
    views = Views(dtype=str(dtype).removeprefix("torch."))
    store = extract(pictures, encoder, folder=tmp_path / "store", views=views, work=TWO_ROWS)
    assert len(store) == 5 and (store.sizes.patches, store.sizes.width) == (P, V)
    for path, image in zip(pictures, picture_hashes(pictures), strict=True):
        read = store.read(image)
        assert read.dtype == dtype
        assert torch.equal(read, patches_of(path, encoder).to(dtype))


def test_views_are_the_centre_and_keyed_crops(pictures, tmp_path):
    encoder = FakeEncoder()
    views = Views(count=3, seed=9, scale=(0.3, 0.6), flip=True, colour=0.4)
    store = extract(pictures, encoder, folder=tmp_path / "store", views=views)
    for path, image in zip(pictures, picture_hashes(pictures), strict=True):
        assert torch.equal(store.read(image, 0), patches_of(path, encoder))
        for view in (1, 2):
            draws = crop_draws(9, view, int(image[:16], 16))
            crop = patches_of(path, encoder, draws, scale=(0.3, 0.6), flip=True, colour=0.4)
            assert torch.equal(store.read(image, view), crop)
        assert not torch.equal(store.read(image, 1), store.read(image, 2))
    with pytest.raises(StoreError, match="view 3 is not stored; there are 3"):
        store.read(image, 3)


def test_shards_hold_rows_views_patches(pictures, tmp_path):
    work = replace(TWO_ROWS, shard_bytes=2 * TWO_ROWS.shard_bytes)
    extract(pictures, FakeEncoder(), folder=tmp_path / "store", views=Views(count=2), work=work)
    shapes = [load_file(path)["patches"].shape for path in sorted((tmp_path / "store").glob("*.safetensors"))]
    assert shapes == [(2, 2, P, V), (2, 2, P, V), (1, 2, P, V)]
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [
        "manifest.json",
        *(f"shard-{number:05d}.safetensors" for number in range(3)),
    ]


def test_workers_and_batch_do_not_change_what_is_stored(pictures, tmp_path):
    views, hashes = Views(count=2), picture_hashes(pictures)
    stores = [
        extract(pictures, FakeEncoder(), folder=tmp_path / name, views=views, work=work)
        for name, work in {"a": Work(), "b": Work(batch=1, workers=Workers(1))}.items()
    ]
    for image in hashes:
        assert all(torch.equal(stores[0].read(image, view), stores[1].read(image, view)) for view in (0, 1))


def test_identical_bytes_are_encoded_once(pictures, tmp_path):
    shutil.copy(pictures[0], tmp_path / "copy.png")
    encoder, told = FakeEncoder(), []
    images = [*pictures, tmp_path / "copy.png", pictures[1]]
    store = extract(
        images,
        encoder,
        folder=tmp_path / "store",
        views=Views(),
        work=TWO_ROWS,
        progress=lambda done, total: told.append((done, total)),
    )
    assert len(store) == 5 and encoder.seen == 5 + 1, "five pictures and the blank one that measures P and V"
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_a_complete_store_returns_without_work(pictures, tmp_path):
    extract(pictures, FakeEncoder(), folder=tmp_path / "store", views=Views())
    encoder = FakeEncoder()
    manifest = tmp_path / "store/manifest.json"
    before = manifest.stat().st_mtime_ns
    assert len(extract(pictures[:2], encoder, folder=tmp_path / "store", views=Views())) == 5
    assert encoder.calls == 0 and manifest.stat().st_mtime_ns == before


def test_a_store_is_filled_further(pictures, tmp_path):
    folder = tmp_path / "store"
    first = extract(pictures[:2], FakeEncoder(), folder=folder, views=Views())
    kept = [first.read(image) for image in picture_hashes(pictures[:2])]
    encoder = FakeEncoder()
    store = extract(pictures, encoder, folder=folder, views=Views())
    assert encoder.seen == 3 and len(store) == 5 and len(store.manifest.shards) == 2
    for path, image in zip(pictures, picture_hashes(pictures), strict=True):
        assert torch.equal(store.read(image), patches_of(path, encoder))
    assert all(torch.equal(store.read(image), row) for image, row in zip(first._place, kept, strict=True))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupted_run_goes_on_with_the_missing_shards(pictures, tmp_path, error, workers):
    folder, work = tmp_path / "store", replace(TWO_ROWS, workers=Workers(workers))
    with pytest.raises(error):  # the first call measures, the fourth is the third shard's
        extract(pictures, FakeEncoder(4, error), folder=folder, views=Views(), work=work)
    assert not (folder / "manifest.json").exists()
    with pytest.raises(StoreError, match="there is no finished feature store; extract the features"):
        FeatureStore.open(folder, store_key(FakeEncoder(), Views()))
    untouched = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    assert len(untouched) == 2
    encoder = FakeEncoder()
    store = extract(pictures, encoder, folder=folder, views=Views(), work=work)
    assert (encoder.calls, encoder.seen) == (1, 1)
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched
    for path, image in zip(pictures, picture_hashes(pictures), strict=True):
        assert torch.equal(store.read(image), patches_of(path, encoder))
    assert not list(folder.glob("shard-*.json"))


def test_an_interrupted_filling_leaves_the_store_usable(pictures, tmp_path):
    folder = tmp_path / "store"
    extract(pictures[:1], FakeEncoder(), folder=folder, views=Views(), work=TWO_ROWS)
    with pytest.raises(RuntimeError):
        extract(pictures, FakeEncoder(2), folder=folder, views=Views(), work=TWO_ROWS)
    assert len(FeatureStore.open(folder, store_key(FakeEncoder(), Views()))) == 1
    encoder = FakeEncoder()
    assert len(extract(pictures, encoder, folder=folder, views=Views(), work=TWO_ROWS)) == 5
    assert encoder.seen == 2


def test_interrupted_between_a_shard_and_its_sidecar(pictures, tmp_path, monkeypatch):
    folder = tmp_path / "store"

    def stop_at_sidecar(path, write):
        if path.suffix == ".json":
            raise KeyboardInterrupt
        write_atomically(path, write)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(extraction, "write_atomically", stop_at_sidecar)
        extract(pictures, FakeEncoder(), folder=folder, views=Views())
    store = extract(pictures, FakeEncoder(), folder=folder, views=Views())
    assert FeatureStore.open(folder, store.key, verify=True).manifest == store.manifest


def test_size_is_known_and_space_checked_before_writing(pictures, tmp_path, monkeypatch, caplog):
    views = Views(count=3, dtype="bfloat16")
    assert planned_bytes(10, FakeEncoder(), views) == 10 * 3 * P * V * 2
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 1))
    encoder = FakeEncoder()
    with (
        caplog.at_level("INFO"),
        pytest.raises(StoreError, match=r"patches of 5 of 5 pictures take 0\.000 GB and 0\.000 GB are free"),
    ):
        extract(pictures, encoder, folder=tmp_path / "store", views=views)
    assert encoder.calls == 1 and list((tmp_path / "store").iterdir()) == []
    assert "extracting 5 of 5 pictures, 0.000 GB" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_named(pictures, tmp_path, workers):
    pictures[3].write_bytes(b"<html>")
    work = Work(batch=1, workers=Workers(workers))
    with pytest.raises(DataError, match=r"^.*3\.png: this is no picture in one of the formats"):
        extract(pictures, FakeEncoder(), folder=tmp_path / "store", views=Views(), work=work)


def test_patches_beyond_the_dtype_are_named(pictures, tmp_path):
    Image.new("RGB", (9, 9), (128, 128, 128)).save(pictures[0])
    with pytest.raises(StoreError, match=r"1\.png: the patches are not finite in torch\.float16; choose bfloat16"):
        extract(pictures, FakeEncoder(gain=1e7), folder=tmp_path / "store", views=Views(dtype="float16"))


def test_wrong_requests_are_refused(pictures, tmp_path):
    with pytest.raises(StoreError, match="at least one view of a picture, not 0"):
        Views(count=0)
    with pytest.raises(StoreError, match="cannot hold 'int8'; choose one of float32, bfloat16, float16"):
        Views(dtype="int8")
    with pytest.raises(DataError, match="There are no pictures to extract features from; give at least one"):
        extract([], FakeEncoder(), folder=tmp_path / "store", views=Views())
    with pytest.raises(StoreError, match=r"0\.png: the folder cannot be made"):
        extract(pictures, FakeEncoder(), folder=pictures[0], views=Views())


def test_no_global_generator_is_touched(pictures, tmp_path):
    before = torch.get_rng_state()
    extract(pictures, FakeEncoder(), folder=tmp_path / "store", views=Views(count=2))
    assert torch.equal(before, torch.get_rng_state())


def test_a_full_disk_is_named_and_leaves_no_half_shard(pictures, tmp_path, monkeypatch):
    def fill_up(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(extraction, "save_file", fill_up)
    with pytest.raises(StoreError, match=r"shard-00000.* cannot be written .*No space left.*; free space and run"):
        extract(pictures, FakeEncoder(), folder=tmp_path / "store", views=Views())
    assert list((tmp_path / "store").iterdir()) == []


def tolerant(output, policy="skip", rate=0.9, **work):
    return Work(broken=BrokenPictures(policy, rate=rate, output=output), **work)


def reported(output):
    return [json.loads(line)["path"] for line in (output / "bad_images.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_broken_pictures_are_left_out_of_the_store(pictures, tmp_path, workers):
    pictures[1].write_bytes(b"<html>")
    pictures[2].unlink()
    shutil.copy(pictures[1], tmp_path / "copy.png")
    images, told = [*pictures, tmp_path / "copy.png"], []
    work = tolerant(tmp_path / "run", batch=2, shard_bytes=TWO_ROWS.shard_bytes, workers=Workers(workers))
    store = extract(
        images,
        FakeEncoder(),
        folder=tmp_path / "store",
        views=Views(),
        work=work,
        progress=lambda done, total: told.append((done, total)),
    )
    good = [pictures[0], pictures[3], pictures[4]]
    assert len(store) == 3 and told[-1] == (3, 3)
    for path, image in zip(good, picture_hashes(good), strict=True):
        assert torch.equal(store.read(image), patches_of(path, FakeEncoder()))
    assert sorted(reported(tmp_path / "run")) == sorted(map(str, (pictures[1], pictures[2], tmp_path / "copy.png")))
    again = extract(images, FakeEncoder(), folder=tmp_path / "store", views=Views(), work=work)
    assert again.manifest == store.manifest and len(reported(tmp_path / "run")) == 3


def test_a_shard_of_which_nothing_can_be_read_is_not_written(pictures, tmp_path):
    for path in pictures[:2]:
        path.write_bytes(path.name.encode())
    work = tolerant(tmp_path / "run", batch=2, shard_bytes=TWO_ROWS.shard_bytes)
    store = extract(pictures, FakeEncoder(), folder=tmp_path / "store", views=Views(), work=work)
    assert len(store) == 3 and [shard.file for shard in store.manifest.shards] == [
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]


def test_quarantine_moves_what_the_extraction_meets(pictures, tmp_path):
    pictures[3].write_bytes(b"<html>")
    work = tolerant(tmp_path / "run", "quarantine")
    extract(pictures, FakeEncoder(), folder=tmp_path / "store", views=Views(), work=work)
    assert not pictures[3].exists() and (tmp_path / "run/quarantine/3.png").read_bytes() == b"<html>"


def test_too_many_broken_pictures_end_the_extraction_and_what_is_there_stays(pictures, tmp_path):
    pictures[4].write_bytes(b"<html>")
    folder, work = tmp_path / "store", tolerant(tmp_path / "run", rate=0.1, batch=2, shard_bytes=TWO_ROWS.shard_bytes)
    with pytest.raises(DataError, match=r"1 of 5 pictures cannot be read, more than the share of 0\.1"):
        extract(pictures, FakeEncoder(), folder=folder, views=Views(), work=work)
    encoder = FakeEncoder()
    assert len(extract(pictures[:4], encoder, folder=folder, views=Views())) == 4
    assert encoder.calls == 0, "the shards before were kept"


@pytest.mark.parametrize("failing", ["shard-00001.safetensors", "shard-00001.json", "manifest.json"])
def test_a_full_disk_is_one_sentence_and_what_is_there_is_kept(pictures, tmp_path, monkeypatch, failing):
    folder = tmp_path / "store"

    def full(path, write):
        if path.name == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_atomically(path, write)

    with monkeypatch.context() as patch, pytest.raises(StoreError) as caught:
        patch.setattr(extraction, "write_atomically", full)
        extract(pictures, FakeEncoder(), folder=folder, views=Views(), work=TWO_ROWS)
    named = folder / failing.replace("01.json", "01.safetensors")
    assert str(caught.value) == (
        f"{named}: the file cannot be written (No space left on device); free space and run again, what is "
        "there is kept."
    )
    done = {"shard-00001.safetensors": 2, "shard-00001.json": 2, "manifest.json": 5}[failing]
    encoder = FakeEncoder()
    store = extract(pictures, encoder, folder=folder, views=Views(), work=TWO_ROWS)
    assert encoder.seen == 5 - done
    for path, image in zip(pictures, picture_hashes(pictures), strict=True):
        assert torch.equal(store.read(image), patches_of(path, encoder))


@dataclass(frozen=True)
class Cell:
    """A picture that is no file."""

    content: bytes

    def __str__(self):
        return "x.parquet, row 0"

    def read_bytes(self):
        return self.content


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_that_are_no_files_are_stored_by_their_bytes(pictures, tmp_path, workers):
    cells = [Cell(path.read_bytes()) for path in pictures]
    work = Work(workers=Workers(workers))
    store = extract(cells, FakeEncoder(), folder=tmp_path / "store", views=Views(count=2), work=work)
    assert store.locate(cells) == picture_hashes(pictures)
    encoder = FakeEncoder()
    extract(pictures, encoder, folder=tmp_path / "store", views=Views(count=2))
    assert encoder.calls == 0, "the same bytes in files are the same pictures"
    with pytest.raises(DataError, match=r"^x\.parquet, row 0: this is no picture"):
        extract([Cell(b"<html>")], FakeEncoder(), folder=tmp_path / "store", views=Views(count=2))


def test_the_share_of_broken_pictures_counts_every_copy(pictures, tmp_path):
    pictures[0].write_bytes(b"<html>")
    work = tolerant(tmp_path / "run", rate=0.2)
    for _ in range(2):
        assert len(extract(pictures * 3, FakeEncoder(), folder=tmp_path / "s", views=Views(), work=work)) == 4
    with pytest.raises(DataError, match=r"3 of 15 pictures cannot be read, more than the share of 0\.19"):
        work = tolerant(tmp_path / "run", rate=0.19)
        extract(pictures * 3, FakeEncoder(), folder=tmp_path / "s", views=Views(), work=work)


def test_a_worker_that_ends_is_named_with_its_picture(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("isthmus.features.encode.open_image", lambda _: os._exit(1))
    words = rf"^loading worker 0 \(pid \d+\) ended with exit code 1; it had last begun {pictures[0]}: free memory"
    with pytest.raises(WorkerError, match=words):
        extract(pictures, FakeEncoder(), folder=tmp_path / "store", views=Views(), work=Work(workers=Workers(1)))

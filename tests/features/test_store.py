import json
import pickle
from dataclasses import replace

import pytest
import torch
from PIL import Image

from isthmus.data.collate import Text
from isthmus.data.hashes import picture_hashes
from isthmus.data.loader import EvaluationRows, TrainingRows, evaluation_loader, make_loader
from isthmus.data.sampler import CounterSampler
from isthmus.data.workers import Workers
from isthmus.errors import DataError, StoreError
from isthmus.features import extract as extraction
from isthmus.features.extract import extract
from isthmus.features.key import StoreKey, Views, store_key
from isthmus.features.store import FeatureStore, StoredLook
from isthmus.records import Example
from quadrants import TWO_ROWS, FakeEncoder, P, V

KEY = StoreKey("a:1", None, "f00d", {"size": 8}, Views(2, "float32", 1, (0.5, 1.0), False))


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        (replace(KEY, encoder="b:1"), r"the stored encoder is 'a:1' but 'b:1' is wanted; use another folder or"),
        (replace(KEY, hidden_layer=-2), r"the stored hidden layer is None but -2 is wanted"),
        (replace(KEY, weights="beef"), r"the stored weights fingerprint is 'f00d' but 'beef' is wanted"),
        (replace(KEY, preprocessing={"size": 9}), r"the stored preprocessing is {'size': 8} but {'size': 9} is"),
        (replace(KEY, views=replace(KEY.views, dtype="bfloat16")), "the stored dtype is 'float32' but 'bfloat16'"),
        (replace(KEY, views=replace(KEY.views, count=3)), "the stored number of views is 2 but 3 is wanted"),
        (replace(KEY, views=replace(KEY.views, count=1)), "the stored number of views is 2 but 1 is wanted"),
        (replace(KEY, views=replace(KEY.views, seed=2)), "the stored view seed is 1 but 2 is wanted"),
        (replace(KEY, views=replace(KEY.views, scale=(0.1, 1.0))), r"scale is \[0.5, 1.0\] but \[0.1, 1.0\] is wanted"),
        (replace(KEY, views=replace(KEY.views, flip=True)), "the stored flip is False but True is wanted"),
        (replace(KEY, views=replace(KEY.views, colour=0.2)), "the stored colour is 0.0 but 0.2 is wanted"),
    ],
)
def test_another_key_is_refused(pictures, tmp_path, monkeypatch, wanted, match):
    folder = tmp_path / "store"
    keys = iter([KEY, wanted])
    monkeypatch.setattr(extraction, "store_key", lambda encoder, views: next(keys))
    extract(pictures, FakeEncoder(), folder=folder, views=KEY.views)
    with pytest.raises(StoreError, match=match):
        FeatureStore.open(folder, wanted)
    with pytest.raises(StoreError, match=match):
        extract(pictures, FakeEncoder(), folder=folder, views=wanted.views)


def test_the_key_is_made_from_the_encoder():
    key = store_key(FakeEncoder(), Views())
    assert key.encoder == "fake:quadrants" and key.preprocessing["size"] == 8
    assert key == store_key(FakeEncoder(), Views())
    assert key.weights != store_key(FakeEncoder(gain=2.0), Views()).weights


def test_an_unfinished_store_of_another_key_is_refused(pictures, tmp_path):
    with pytest.raises(RuntimeError):
        extract(pictures, FakeEncoder(4), folder=tmp_path / "store", views=Views(), work=TWO_ROWS)
    with pytest.raises(StoreError, match="the stored weights fingerprint is"):
        extract(pictures, FakeEncoder(gain=2.0), folder=tmp_path / "store", views=Views(), work=TWO_ROWS)


def test_crop_settings_do_not_matter_without_crops(pictures, tmp_path):
    extract(pictures, FakeEncoder(), folder=tmp_path / "store", views=Views(seed=1))
    opened = FeatureStore.open(tmp_path / "store", store_key(FakeEncoder(), Views(seed=2, flip=True)))
    assert len(opened) == len({path.read_bytes() for path in pictures})


def damaged(pictures, tmp_path, damage):
    store = extract(pictures, FakeEncoder(), folder=tmp_path / "store", views=Views())
    path = tmp_path / "store/shard-00000.safetensors"
    content = bytearray(path.read_bytes())
    damage(path, content)
    return store.folder, store.key


def test_a_flipped_byte_is_found_by_verify(pictures, tmp_path):
    def flip(path, content):
        content[-1] ^= 1
        path.write_bytes(content)

    folder, key = damaged(pictures, tmp_path, flip)
    FeatureStore.open(folder, key)
    with pytest.raises(StoreError, match=r"shard-00000\.safetensors: the shard is damaged: its sha256 is not"):
        FeatureStore.open(folder, key, verify=True)


def test_a_short_or_missing_shard_is_found_at_once(pictures, tmp_path):
    folder, key = damaged(pictures, tmp_path, lambda path, content: path.write_bytes(content[:-1]))
    with pytest.raises(StoreError, match=r"the shard has \d+ bytes, not \d+; delete the store and extract again"):
        FeatureStore.open(folder, key)
    (folder / "shard-00000.safetensors").unlink()
    with pytest.raises(StoreError, match=r"shard-00000\.safetensors: the shard is missing"):
        FeatureStore.open(folder, key)


def test_a_damaged_header_is_named(pictures, tmp_path):
    def break_header(path, content):
        content[8:12] = b"\0\0\0\0"
        path.write_bytes(content)

    folder, key = damaged(pictures, tmp_path, break_header)
    store = FeatureStore.open(folder, key)
    with pytest.raises(StoreError, match=r"shard-00000\.safetensors: the shard cannot be opened"):
        store.read(picture_hashes(pictures)[0])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text: text[:-20], r"manifest\.json: the file is damaged .*; delete the store and extract again"),
        (lambda text: "[]", "the file is damaged"),
        (lambda text: text.replace('"sizes"', '"other"'), "the file is damaged"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "the store has format 2 and this version reads 1"),
    ],
)
def test_a_wrong_manifest_is_refused(pictures, tmp_path, change, match):
    store = extract(pictures, FakeEncoder(), folder=tmp_path / "store", views=Views())
    path = store.folder / "manifest.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(StoreError, match=match):
        FeatureStore.open(store.folder, store.key)


def test_the_manifest_states_what_it_holds(pictures, tmp_path):
    store = extract(pictures, FakeEncoder(), folder=tmp_path / "store", views=Views())
    read = json.loads((store.folder / "manifest.json").read_text())
    assert read["format"] == 1 and read["sizes"] == {"patches": P, "width": V}
    assert read["shards"][0]["images"] == picture_hashes(pictures)
    assert store.size == read["shards"][0]["size"]


def test_changed_and_new_pictures_are_named(pictures, tmp_path):
    store = extract(pictures[:4], FakeEncoder(), folder=tmp_path / "store", views=Views())
    assert store.locate(pictures[:4]) == picture_hashes(pictures[:4])
    with pytest.raises(StoreError, match=r"4\.png: the picture is not in the feature store .*; extract the"):
        store.locate(pictures)
    Image.new("RGB", (9, 9), "red").save(pictures[2])
    with pytest.raises(StoreError, match=r"2\.png: the picture is not in .* new or its bytes changed"):
        store.locate(pictures[:4])
    with pytest.raises(StoreError, match="no picture with sha256 abc is stored; extract it first"):
        store.read("abc")
    with pytest.raises(DataError, match=r"none\.png: the picture cannot be read \(No such file"):
        store.locate([tmp_path / "none.png"])


def tokenize(captions):
    return Text(torch.zeros(len(captions), 1, dtype=torch.int64), torch.ones(len(captions), 1, dtype=torch.bool))


def test_batches_from_a_store_are_the_same_for_any_number_of_workers(pictures, tmp_path):
    store = extract(pictures, FakeEncoder(), folder=tmp_path / "store", views=Views(count=2), work=TWO_ROWS)
    source = [Example(path, path.name, ("x",)) for path in pictures]
    rows = TrainingRows(source, StoredLook(store, source, seed=3), seed=3)
    sampler = CounterSampler(5, 2, seed=3)
    runs = [
        list(make_loader(rows, sampler, steps=range(8), tokenize=tokenize, workers=Workers(workers)))
        for workers in (0, 1, 2)
    ]
    for alone, one, two in zip(*runs, strict=True):
        assert torch.equal(alone.vision, one.vision) and torch.equal(alone.vision, two.vision)
    images = picture_hashes(pictures)
    views = {
        next(view for view in (0, 1) if torch.equal(row, store.read(images[index], view)))
        for batch in runs[0]
        for row, index in zip(batch.vision, batch.index, strict=True)
    }
    assert views == {0, 1}


def test_rows_are_read_again_by_the_keys_of_their_batch(pictures, tmp_path):
    store = extract(pictures, FakeEncoder(), folder=tmp_path / "store", views=Views(count=3))
    source = [Example(path, path.name, ("x",)) for path in pictures]
    look = StoredLook(store, source, seed=3)
    rows, sampler = TrainingRows(source, look, seed=3), CounterSampler(5, 2, seed=3)
    batches = list(make_loader(rows, sampler, steps=range(12), tokenize=tokenize))
    for batch in batches:
        assert torch.equal(look.again(batch.index, batch.epoch), batch.vision)
    assert {epoch for batch in batches for epoch in batch.epoch.tolist()} == set(range(6))
    later = [torch.equal(look.again(batch.index, batch.epoch + 1), batch.vision) for batch in batches]
    assert not all(later), "the epoch chooses the view"


def test_evaluation_sees_the_centre(pictures, tmp_path):
    store = extract(pictures, FakeEncoder(), folder=tmp_path / "store", views=Views(count=2))
    source = [Example(path, path.name, ("x",)) for path in pictures]
    (batch,) = evaluation_loader(EvaluationRows(source, StoredLook(store, source, seed=None)), 8, tokenize=tokenize)
    assert torch.equal(batch.vision, torch.stack([store.read(image) for image in picture_hashes(pictures)]))


def test_a_store_is_pickled_without_its_handles(pictures, tmp_path):
    store = extract(pictures, FakeEncoder(), folder=tmp_path / "store", views=Views())
    image = picture_hashes(pictures)[0]
    store.read(image)
    assert torch.equal(pickle.loads(pickle.dumps(store)).read(image), store.read(image))

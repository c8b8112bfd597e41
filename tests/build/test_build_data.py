"""Config → sources, what they lose to broken pictures, and what a run draws from them."""

import json
import shutil

import pytest
import torch

from command_line import pictures
from isthmus.build.data import Looks, broken_pictures, drawn_rows, open_held_out, open_sources, training_loader
from isthmus.build.plan import plan_of
from isthmus.config.run import check
from isthmus.data.folder import ImageFolder
from isthmus.data.image import open_image
from isthmus.data.sidecar import SidecarFolder
from isthmus.errors import DataError
from isthmus.features.encode import Work
from isthmus.features.extract import extract
from isthmus.features.key import Views
from isthmus.records import Text
from quadrants import FakeEncoder

RUN = {
    "stage": 1,
    "encoder": {"kind": "transformers", "weights": "hub:x/y"},
    "bridge": {"bert": "hub:bert"},
    "train": {"steps": 9, "batch_size": 4},
}


def config(place, **data):
    return check({**RUN, "output": str(place / "run"), "data": data}, "here")


@pytest.fixture
def folder(tmp_path):
    return pictures(tmp_path / "pictures")


def tokenize(captions):
    ids = torch.tensor([[len(caption)] for caption in captions])
    return Text(ids, torch.ones_like(ids, dtype=torch.bool))


def test_each_kind_is_opened(tmp_path, folder):
    (tmp_path / "sidecar").mkdir()
    shutil.copy(folder / "0.png", tmp_path / "sidecar")
    (tmp_path / "sidecar/0.txt").write_text("a picture")
    (folder / "table.csv").write_text("image,text\n1.png,a table's\n")
    several = [
        {"folder": str(folder)},
        {"kind": "sidecar", "folder": str(tmp_path / "sidecar")},
        {"kind": "table", "table": str(folder / "table.csv")},
    ]
    train = open_sources(config(tmp_path, train=several)).train
    kinds = [type(part.source) for part in train.parts]
    assert kinds[:2] == [ImageFolder, SidecarFolder] and len(train) == 26
    assert train[25].captions == ("a table's",) and train[25].image_id == f"{folder / 'table.csv'}: 1.png"


def test_pictures_that_are_all_one_thing_are_refused_where_that_counts(tmp_path, folder):
    names = [f"{number}.png" for number in range(3)]
    (folder / "same.csv").write_text("file_name,text\n" + "".join(f"{name},a cat\n" for name in names))
    given = {"train": {"folder": str(folder), "metadata": "same.csv"}}
    with pytest.raises(
        DataError, match=r"all 3 training pictures have the caption 'a cat', so that none is a negative"
    ):
        open_sources(config(tmp_path, **given))
    content = {**RUN, "output": str(tmp_path / "run"), "data": given}
    for policy in ("image", "off"):
        assert len(open_sources(check({**content, "objectives": {"identity": policy}}, "here")).train) == 3


def test_what_is_evaluated_on_needs_no_training_pictures_of_its_own(tmp_path, folder):
    nowhere, here = {"folder": str(tmp_path / "nowhere")}, {"folder": str(folder)}
    held_out = open_held_out(config(tmp_path, train=nowhere, evaluation=here))
    assert held_out is not None and len(held_out) == 24
    assert open_held_out(config(tmp_path, train=here)) is None


def test_a_share_is_held_out(tmp_path, folder):
    given = config(tmp_path, train={"folder": str(folder)}, held_out=0.3)
    sources, again = open_sources(given), open_held_out(given)
    names = [{source[index].image.name for index in range(len(source))} for source in sources.both()]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 24 and 2 <= len(names[1]) <= 13
    assert again is not None and {again[index].image.name for index in range(len(again))} == names[1]
    other_seed = check({**given.model_dump(mode="json", exclude_unset=True), "seed": 7}, "here")
    assert len(open_sources(other_seed).train) == len(names[0])


def test_what_is_drawn_from_each_source_is_told(tmp_path, folder):
    second = pictures(tmp_path / "more")
    several = [{"folder": str(folder), "weight": 3.0}, {"folder": str(second), "weight": 1.0}]
    given = config(tmp_path, train=several)
    train = open_sources(given).train
    rows = [visit.row for visits in train.sampler(4, seed=0).steps(0, 9) for visit in visits]
    first, others = [row for row in rows if row < 24], [row for row in rows if row >= 24]
    assert 22 <= len(first) <= 32 and len(first) + len(others) == 36
    assert drawn_rows(train, given) == [
        {"source": str(folder), "size": 24, "rows_drawn": len(first), "different_rows": len(set(first))},
        {"source": str(second), "size": 24, "rows_drawn": len(others), "different_rows": len(set(others))},
    ]


def test_batches_that_are_not_full_are_part_of_a_run_s_plan_where_they_are_kept(tmp_path, folder):
    train = {"steps": 9, "batch_size": 7, "last_batch": "keep"}
    content = {**RUN, "train": train, "output": str(tmp_path / "run"), "data": {"train": {"folder": str(folder)}}}
    given = check(content, "here")
    source, view = open_sources(given).train, looks(given)
    kinds = {"tokenize": tokenize, "broken": view.broken}
    loader, per_epoch = training_loader(source, view(source, seed=0), given, **kinds)
    batches = list(loader)
    assert per_epoch == 4 and [len(batch) for batch in batches] == [7, 7, 7, 3, 7, 7, 7, 3, 7]
    assert sorted(int(row) for batch in batches[:4] for row in batch.index) == list(range(24))
    assert [plan_of(given, per_epoch).epoch(step) for step in range(9)] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert drawn_rows(source, given) == [
        {"source": str(folder), "size": 24, "rows_drawn": 55, "different_rows": 24},
    ]


def test_a_run_goes_on_with_the_micro_batches_of_a_later_step(tmp_path, folder):
    content = {
        **{key: value for key, value in RUN.items() if key != "bridge"},
        "stage": 2,
        "init": {"from": "runs/one"},
        "llm": {"weights": "folder:llm"},
        "output": str(tmp_path / "run"),
        "data": {"train": {"folder": str(folder)}},
        "train": {"steps": 5, "batch_size": 4, "accumulation": 2},
    }
    given = check(content, "here")
    source, view = open_sources(given).train, looks(given)
    kinds = {"tokenize": tokenize, "broken": view.broken}
    loaders = [training_loader(source, view(source, seed=0), given, start=start, **kinds)[0] for start in (0, 3)]
    whole, later = ([batch.index.tolist() for batch in loader] for loader in loaders)
    assert len(whole) == 10 and later == whole[6:]


def looks(given, store=None):
    encoder = FakeEncoder()
    return Looks(given.features, encoder, store, broken_pictures(given))


def break_some(folder):
    (folder / "3.png").write_bytes(b"<html>")
    (folder / "20.png").unlink()
    return {str(folder / "3.png"), str(folder / "20.png")}


@pytest.mark.parametrize("policy", ["skip", "quarantine"])
def test_from_pixels_held_out_pictures_are_tried_and_training_rows_replaced(tmp_path, folder, policy):
    bad, source = break_some(folder), {"folder": str(folder)}
    given = config(tmp_path, train=source, evaluation=source, broken=policy, broken_rate=0.5)
    sources, view = open_sources(given), looks(given)
    train, held_out = view.usable(sources.train, training=True), view.usable(sources.evaluation, training=False)
    assert len(train) == 24 and len(held_out) == 22
    assert all(open_image(held_out[index].image) for index in range(22))
    loader, per_epoch = training_loader(train, view(train, seed=0), given, tokenize=tokenize, broken=view.broken)
    rows = [int(index) for batch in loader for index in batch.index]
    assert per_epoch == 6 and len(rows) == 36 and not {3, 20} & set(rows)
    lines = [json.loads(line) for line in (tmp_path / "run/bad_images.jsonl").read_text().splitlines()]
    assert {line["path"] for line in lines} == bad and len(lines) == 2
    assert (folder / "3.png").exists() == (policy == "skip")
    assert (tmp_path / "run/quarantine/3.png").exists() == (policy == "quarantine")


def test_with_a_store_both_lose_what_is_not_in_it(tmp_path, folder):
    source = {"folder": str(folder)}
    given = config(tmp_path, train=source, evaluation=source, broken="skip", broken_rate=0.5)
    break_some(folder)
    sources = open_sources(given)
    images = [sources.train[index].image for index in range(24)]
    store = extract(
        images, FakeEncoder(), folder=tmp_path / "store", views=Views(), work=Work(broken=broken_pictures(given))
    )
    view = looks(given, store)
    kept = view.usable(sources.train, training=True)
    assert len(kept) == len(view.usable(sources.evaluation, training=False)) == 22
    loader, _ = training_loader(kept, view(kept, seed=0), given, tokenize=tokenize, broken=view.broken)
    assert sum(len(batch) for batch in loader) == 36


def test_a_broken_picture_ends_a_run_that_was_told_nothing(tmp_path, folder):
    (folder / "3.png").write_bytes(b"<html>")
    given = config(tmp_path, train={"folder": str(folder)})
    train, view = open_sources(given).train, looks(given)
    assert view.usable(train, training=False) is train
    loader, _ = training_loader(train, view(train, seed=0), given, tokenize=tokenize, broken=view.broken)
    with pytest.raises(DataError, match=r"3\.png: this is no picture"):
        list(loader)
    (folder / "20.png").unlink()
    with pytest.raises(DataError, match=r"line 21: there is no file .*20\.png"):
        open_sources(given)


def test_a_source_of_which_nothing_can_be_read_is_named(tmp_path, folder):
    for path in folder.glob("*.png"):
        path.write_bytes(b"")
    given = config(tmp_path, train={"folder": str(folder)}, broken="skip", broken_rate=1.0)
    with pytest.raises(DataError, match=r"pictures: no picture can be read; .*bad_images\.jsonl says why"):
        looks(given).usable(open_sources(given).train, training=False)

"""Whole runs on every kind of source: CSV, texts beside pictures, tables, several at once, some of them broken."""

import json
import os

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from command_line import STEPS, isthmus, tiny_recipes
from isthmus.checkpoints.native import read_bridge

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = tmp_path_factory.mktemp("sources")
    tiny_recipes(place)
    return place


@pytest.fixture(autouse=True)
def own_cache(world, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(world / "cache"))


def entries(world):
    return [json.loads(line) for line in (world / "pictures/metadata.jsonl").read_text().splitlines()]


def csv_folder(world, name="csv"):
    """The pictures with two captions each, as two rows of a CSV file."""
    folder = world / name
    folder.mkdir()
    rows = ["file_name,text"]
    for entry in entries(world):
        os.link(world / "pictures" / entry["file_name"], folder / entry["file_name"])
        rows += [f"{entry['file_name']},{entry['text']}", f'{entry["file_name"]},"{entry["text"]}, drawn"']
    (folder / "metadata.csv").write_text("\n".join(rows))
    return {"folder": str(folder)}


def sidecar_folder(world):
    folder = world / "sidecar"
    (folder / "below").mkdir(parents=True)
    for entry in entries(world):
        os.link(world / "pictures" / entry["file_name"], folder / "below" / entry["file_name"])
        (folder / "below" / entry["file_name"]).with_suffix(".txt").write_text(entry["text"] + "\n")
    (folder / "notes.pdf").write_bytes(b"%PDF")
    return {"kind": "sidecar", "folder": str(folder)}


def table(world):
    path = world / "pictures.parquet"
    images = [{"bytes": (world / "pictures" / e["file_name"]).read_bytes(), "path": None} for e in entries(world)]
    texts = [entry["text"] for entry in entries(world)]
    parquet.write_table(pyarrow.table({"photo": images, "caption": texts}), path)
    return {"kind": "table", "table": str(path), "image_column": "photo", "text_column": "caption"}


def run(world, name, data, *options):
    """Train and evaluate; the run's record and its own second opinion."""
    output = world / name
    given = [f"{key}={json.dumps(value)}" for key, value in data.items()]
    code = isthmus("train", world / "one.yaml", "data={}", *given, f"output={output}", *options)
    assert code == 0
    record = json.loads((output / "run.json").read_text())
    assert read_bridge(output / "bridge").provenance["step"] == STEPS
    assert isthmus("evaluate", output) == 0
    again = json.loads((output / "evaluation.json").read_text())
    assert again["figures"]["candidates"] == record["figures"]["candidates"]
    return record, output


@pytest.mark.parametrize(("source", "workers"), [(csv_folder, 0), (sidecar_folder, 1), (table, 2)])
def test_every_kind_of_source_trains_and_is_scored(world, source, workers):
    given = source(world)
    data = {"data.train": given, "data.evaluation": given, "data.workers": workers}
    record, _ = run(world, source.__name__, data)
    assert record["figures"]["pictures"] == 24
    assert record["sources"][0]["rows_drawn"] == 36 and record["sources"][0]["different_rows"] == 24


def test_pictures_of_a_table_are_those_of_the_folder(world):
    """The same bytes are the same stored pictures, so the runs above share one store."""
    manifest = json.loads((world / "features/manifest.json").read_text())
    assert sum(len(shard["images"]) for shard in manifest["shards"]) == 24


def test_a_share_is_held_out_and_found_again_by_evaluate(world):
    source = {"folder": str(world / "pictures")}
    record, output = run(world, "held-out", {"data.train": source, "data.held_out": 0.3})
    assert record["sources"][0]["size"] + record["figures"]["pictures"] == 24
    assert 2 <= record["figures"]["pictures"] <= 13
    assert isthmus("evaluate", output, f"data.evaluation.folder={world / 'pictures'}") == 0
    assert json.loads((output / "evaluation.json").read_text())["figures"]["pictures"] == 24


def test_two_sources_by_weight(world):
    train = [{"folder": str(world / "pictures"), "weight": 3.0}, {**csv_folder(world, "second"), "weight": 1.0}]
    record, _ = run(world, "weighted", {"data.train": train, "data.evaluation": {"folder": train[0]["folder"]}})
    assert [one["source"] for one in record["sources"]] == [one["folder"] for one in train]
    rows = [one["rows_drawn"] for one in record["sources"]]
    assert sum(rows) == 36 and 22 <= rows[0] <= 32


@pytest.mark.parametrize(("policy", "features"), [("skip", "store"), ("skip", "pixels"), ("quarantine", "pixels")])
def test_broken_pictures_are_passed_over_and_named(world, policy, features):
    name = f"{policy}-{features}"
    source = csv_folder(world, name + "-pictures")
    folder = world / f"{name}-pictures"
    for number, content in enumerate([b"", b"<html></html>"]):
        (folder / f"{number}.png").unlink()
        (folder / f"{number}.png").write_bytes(content)
    (folder / "2.png").unlink()
    data = {"data.train": source, "data.evaluation": source, "data.broken": policy, "data.broken_rate": 0.2}
    options = ["features.folder=null"] if features == "pixels" else []
    record, output = run(world, name, data, *options)
    assert record["figures"]["pictures"] == 21
    bad = [json.loads(line) for line in (output / "bad_images.jsonl").read_text().splitlines()]
    assert sorted(line["path"] for line in bad) == [str(folder / f"{number}.png") for number in range(3)]
    assert (folder / "1.png").exists() == (policy == "skip")
    assert (output / "quarantine").exists() == (policy == "quarantine")


def test_too_many_broken_pictures_are_one_line_and_exit_code_2(world, capfd):
    source = csv_folder(world, "too-many")
    for number in range(3):
        (world / "too-many" / f"{number}.png").unlink()
    options = [f"data.train={json.dumps(source)}", "data.evaluation=null", "data.broken=skip"]
    capfd.readouterr()
    assert isthmus("train", world / "one.yaml", *options, f"output={world / 'never'}") == 2
    err = capfd.readouterr().err
    assert "3 of 24 pictures cannot be read, more than the share of 0.01 that data.broken_rate allows" in err
    assert err.splitlines()[-1].startswith("isthmus: ")

"""One file for both stages through the command line: trained in turn, not trained twice, and gone on with."""

import json

import pytest
import yaml

from command_line import isthmus, tiny_recipes
from isthmus.checkpoints.native import read_bridge

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The tiny recipes of both stages as one file, trained."""
    place = tmp_path_factory.mktemp("both")
    one, two = (yaml.safe_load(path.read_text()) for path in tiny_recipes(place))
    shared = {key: one[key] for key in ("data", "features", "encoder", "train")}
    shared["train"] = {**shared["train"], "steps": 2, "evaluate_every": None}
    both = {**shared, "output": str(place / "own"), "stage1": {"bridge": one["bridge"]}}
    both["stage2"] = {key: two[key] for key in ("bridge", "llm")}
    path = place / "own.yaml"
    path.write_text(yaml.safe_dump(both))
    assert isthmus("train", path) == 0
    return path


def written(own, stage):
    folder = own.parent / "own" / f"stage{stage}"
    return [path.stat().st_mtime_ns for path in (folder / "run.json", folder / "bridge" / "model.safetensors")]


def test_both_stages_are_trained_the_second_from_the_first(own):
    one, two = (own.parent / "own" / f"stage{number}" for number in (1, 2))
    files = [read_bridge(folder / "bridge") for folder in (one, two)]
    assert [file.provenance["stage"] for file in files] == [1, 2]
    assert files[1].provenance["config"]["init"]["from"] == str(one)
    origin = json.loads((one / "bridge" / "complete").read_text())["model.safetensors"]
    assert files[1].provenance["origin"] == origin and files[0].provenance["origin"] is None
    assert isthmus("evaluate", two) == 0


def test_what_is_done_is_not_done_again(own, capfd):
    before = [written(own, stage) for stage in (1, 2)]
    capfd.readouterr()
    assert isthmus("train", own) == 0
    err = capfd.readouterr().err
    assert "stage 1 is done already" in err and "stage 2 is done already" in err
    assert [written(own, stage) for stage in (1, 2)] == before


def test_a_stage_that_was_stopped_goes_on_and_the_other_is_left(own, capfd):
    before = written(own, 1)
    (own.parent / "own" / "stage2" / "run.json").unlink()
    assert isthmus("train", own) == 0
    assert "2 of 2 steps are done" in capfd.readouterr().err
    assert (own.parent / "own" / "stage2" / "run.json").is_file() and written(own, 1) == before


def test_other_work_is_refused_by_key(own, capfd):
    assert isthmus("train", own, "stage2.train.steps=3") == 2
    err = capfd.readouterr().err
    assert "holds a run with `train.steps` 2, not 3" in err and err.splitlines()[-1].startswith("isthmus: ")


def test_one_stage_alone_trained_over(own):
    before = written(own, 1)
    assert isthmus("train", own, "--stage", "2", "stage2.train.steps=3", "overwrite=true") == 0
    assert read_bridge(own.parent / "own" / "stage2" / "bridge").provenance["step"] == 3
    assert written(own, 1) == before


def test_the_store_is_one_for_both(own, capfd):
    assert isthmus("features", own, "--json") == 0
    assert json.loads(capfd.readouterr().out)["stored_pictures"] == 24

"""A run's folder → its bridge with its towers, scored on pictures that are named, wherever the run lies now."""

import json
import shutil

import pytest

from fakes import tiny_clip_folder
from folders import tiny_stages
from isthmus.build.load import load_run
from isthmus.checkpoints.native import read_bridge
from isthmus.errors import AbsentPartError, CheckpointError, ConfigError
from isthmus.models.stage1 import Stage1
from isthmus.models.stage2 import Stage2

CAPTIONS = ["a red cat", "a big blue boat", "the sun", "a small horse", "the moon"]


def silent(done, total):
    """Progress that nobody looks at."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tiny_stages(tmp_path_factory.mktemp("place"))
    lines = [json.dumps({"file_name": f"{n}.png", "text": caption}) for n, caption in enumerate(CAPTIONS)]
    (place / "pictures" / "metadata.jsonl").write_text("\n".join(lines))
    return place


@pytest.fixture(scope="module")
def held_out(place):
    return {"data.evaluation": {"folder": str(place / "pictures")}}


@pytest.mark.parametrize(("stage", "kind"), [(1, Stage1), (2, Stage2)])
def test_a_run_or_its_bridge_is_loaded_and_scored(place, held_out, stage, kind):
    folder = place / f"stage{stage}"
    runs = [load_run(given, held_out, progress=silent) for given in (folder, folder / "bridge")]
    assert all(isinstance(run.stage, kind) for run in runs)
    figures = [run.evaluate() for run in runs]
    assert figures[0] == figures[1]
    assert sorted(true for _, true in figures[0]["captions"]) == sorted(CAPTIONS)


def test_a_run_that_moved_is_loaded_where_it_is(place, held_out, tmp_path):
    shutil.copytree(place / "stage1", tmp_path / "moved")
    run = load_run(tmp_path / "moved", held_out, progress=silent)
    assert run.folder == tmp_path / "moved" / "bridge"
    assert run.config.output == str(tmp_path / "moved")


def test_the_weight_that_is_chosen_is_kept_in_the_folder(place, held_out, tmp_path):
    shutil.copytree(place / "stage1", tmp_path / "run")
    figures = load_run(tmp_path / "run", held_out, progress=silent).choose_ranking()
    kept = read_bridge(tmp_path / "run" / "bridge").provenance["ranking"]
    assert kept == figures["ranking"]
    assert kept["chosen_on"] == f"folder={place / 'pictures'}"
    with pytest.raises(AbsentPartError, match=r"nothing to re-rank with; give a stage-1 run"):
        load_run(place / "stage2", held_out, progress=silent).choose_ranking()


def test_what_cannot_be_scored_is_one_sentence(place, held_out, tmp_path):
    with pytest.raises(ConfigError, match="was trained without held-out pictures; name some"):
        load_run(place / "stage1", {}, progress=silent)
    other = {**held_out, "encoder.weights": f"folder:{tiny_clip_folder(tmp_path / 'clip', seed=1)}"}
    with pytest.raises(CheckpointError, match="is not the one this bridge was trained with"):
        load_run(place / "stage1", other, progress=silent)
    with pytest.raises(CheckpointError, match="is no model folder"):
        load_run(place / "pictures", held_out, progress=silent)


def test_a_folder_of_both_stages_is_told_to_give_one_of_them(place, held_out):
    with pytest.raises(ConfigError) as told:
        load_run(place, held_out, progress=silent)
    assert str(told.value) == (
        f"{place} holds stage1 and stage2, and one bridge is asked for; give {place}/stage1 or {place}/stage2"
    )

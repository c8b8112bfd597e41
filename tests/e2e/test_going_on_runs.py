"""Whole runs that go on from a bridge, through the command line: each stage from each, and what is refused."""

import json

import pytest
import torch

from command_line import isthmus, tiny_recipes
from fakes import tiny_llama_folder
from isthmus.checkpoints.native import read_bridge

pytestmark = pytest.mark.e2e
SHORT = ["train.steps=2", "train.evaluate_every=null"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = tmp_path_factory.mktemp("world")
    for recipe in tiny_recipes(place):
        assert isthmus("train", recipe, *SHORT) == 0
    return place


def go_on(world, recipe, start, output, *overrides):
    starts = [f"init.from={world / start}", *(["bridge={}"] if recipe == "one" else [])]
    return isthmus("train", world / f"{recipe}.yaml", *SHORT, *starts, f"output={world / output}", *overrides)


@pytest.mark.parametrize(("recipe", "start"), [("one", "one"), ("two", "two")])
def test_a_bridge_is_trained_further(world, capfd, recipe, start):
    output = f"{recipe}-further"
    assert go_on(world, recipe, start, output, "train.lr=1e-9") == 0
    before, after = (read_bridge(world / run / "bridge") for run in (start, output))
    assert before.sizes == after.sizes
    for name, tensor in before.tensors.items():
        torch.testing.assert_close(after.tensors[name], tensor, atol=1e-7, rtol=0)
    assert after.provenance["config"]["init"]["from"] == str(world / start)
    assert after.provenance["config"]["bridge"]["queries"] == 4
    assert ", 0 new, 0 left" in capfd.readouterr().err
    assert isthmus("evaluate", world / output) == 0


def test_another_language_model_is_told_on_the_console_and_in_the_record(world, capfd):
    other = tiny_llama_folder(world / "other-llama", seed=1)
    assert go_on(world, "two", "two", "two-other", f"llm.weights=folder:{other}") == 0
    assert "the projection starts anew" in capfd.readouterr().err
    report = json.loads((world / "two-other" / "run.json").read_text())["start"]
    assert {line.split()[1] for line in report if line.split()[0] == "new"} == {"projection.weight", "projection.bias"}


def test_stage_1_from_stage_2_is_one_line(world, capfd):
    assert go_on(world, "one", "two", "never") == 2
    err = capfd.readouterr().err
    assert "leaves the text half behind" in err and err.count("\n") == 1
    assert not (world / "never").exists()


def test_a_contradicting_size_is_one_line(world, capfd):
    assert go_on(world, "two", "one", "never", "bridge.queries=8") == 2
    err = capfd.readouterr().err
    assert "`bridge.queries` is 8, but the bridge in" in err and err.count("\n") == 1

"""The schema that editors get accepts every recipe, in either form, and nothing unknown in either."""

from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from isthmus.config.run import put, read_yaml
from isthmus.config.schema import recipe_schema
from isthmus.config.stages import load_stages
from isthmus.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
BOTH, ONE = read_yaml(ROOT / "recipes/own-folder.yaml"), read_yaml(ROOT / "recipes/quickstart-stage1.yaml")


@pytest.fixture(scope="module")
def schema():
    return Draft202012Validator(recipe_schema())


def test_it_is_a_schema_and_refers_to_nothing_that_is_not_there(schema):
    Draft202012Validator.check_schema(schema.schema)
    named = set(schema.schema["$defs"])
    assert referred(schema.schema) <= {f"#/$defs/{name}" for name in named}


def referred(schema):
    if isinstance(schema, list):
        return set().union(*map(referred, schema))
    if not isinstance(schema, dict):
        return set()
    own = {schema["$ref"]} if "$ref" in schema else set()
    return own.union(*map(referred, schema.values()))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_is_accepted(schema, path):
    schema.validate(read_yaml(path))


@pytest.mark.parametrize(
    "values",
    [{"stage1": None}, {"stage2.init": {"from": "runs/a"}}, {"stage2.train.batch_size": 3}, {"train": {"lr": 1}}],
    ids=str,
)
def test_what_a_file_of_both_stages_may_say(schema, values):
    schema.validate(put(BOTH, values))


UNKNOWN = ["trian", "data.trian", "encoder.layer", "train.stps", "bridge.dropout.attn"]


@pytest.mark.parametrize("key", [*UNKNOWN, "stage3", "features.flips"])
def test_an_unknown_key_of_one_run_is_refused(schema, key):
    assert not schema.is_valid(put(ONE, {key: 1}))


@pytest.mark.parametrize("key", [*UNKNOWN, *(f"stage{number}.{key}" for key in UNKNOWN for number in (1, 2))])
def test_an_unknown_key_of_both_stages_is_refused(schema, key):
    assert not schema.is_valid(put(BOTH, {key: 1}))


@pytest.mark.parametrize(
    "values",
    [
        {"stage": 1},
        {"init": {"from": "a"}},
        {"stage1": 3},
        {"stage1.output": "a"},
        {"stage2.stage": 2},
        {"stage2.train.steps": "many"},
        {"data.train": []},
        {"output": None},
    ],
    ids=str,
)
def test_what_the_loader_refuses_in_a_file_of_both_stages_is_refused(schema, values, tmp_path, monkeypatch):
    wrong = put(BOTH, values)
    monkeypatch.setattr("isthmus.config.stages.read_yaml", lambda _: wrong)
    with pytest.raises(ConfigError):
        load_stages(tmp_path / "own.yaml")
    assert not schema.is_valid(wrong)


def test_both_stages_need_a_place_and_one_run_needs_all_it_needs(schema):
    for content, keys in ((BOTH, ["output"]), (ONE, ["stage", "output", "data", "encoder", "train"])):
        for key in keys:
            assert not schema.is_valid({name: value for name, value in content.items() if name != key})

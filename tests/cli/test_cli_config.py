"""`isthmus config`: the schema, a recipe resolved, and that neither loads torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from isthmus.cli.config import app
from isthmus.config.run import check
from isthmus.errors import ConfigError

ONE = {
    "stage": 1,
    "output": "runs/a",
    "data": {"train": {"folder": "pictures"}},
    "encoder": {"kind": "timm", "name": "vit"},
    "bridge": {"bert": "folder:bert"},
    "train": {"steps": 10, "batch_size": 4},
}
BOTH = {
    **{key: value for key, value in ONE.items() if key not in ("stage", "bridge")},
    "stage1": {"bridge": ONE["bridge"]},
    "stage2": {"llm": {"weights": "folder:llama"}},
}
_LIGHT = """
import sys
from isthmus.cli import main
sys.argv = ["isthmus", "config", *sys.argv[1:]]
try:
    main()
except SystemExit as done:
    assert not done.code, done.code
print([name for name in ("torch", "transformers", "numpy", "rich") if name in sys.modules], file=sys.stderr)
"""


@pytest.fixture
def run(tmp_path):
    def run(content, *arguments):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(content))
        return CliRunner().invoke(app, ["show", str(path), *arguments], catch_exceptions=False).stdout

    return run


def test_the_schema_names_what_is_needed_and_allows_nothing_unknown():
    schema = json.loads(CliRunner().invoke(app, ["schema"]).stdout)
    run = schema["$defs"]["RunConfig"]
    assert set(run["required"]) == {"stage", "output", "data", "encoder", "train"}
    assert set(ONE) < set(run["properties"]) and run["additionalProperties"] is False
    for name in ("RunConfig", "Stages", "Stage"):
        told = {key: set(content) for key, content in schema["$defs"][name]["properties"].items()}
        assert all({"description", "$ref", "anyOf"} & content for content in told.values())


def test_show_says_what_is_given_and_what_is_default(run):
    lines = run(ONE, "train.lr=3e-4").splitlines()
    assert next(line for line in lines if line.startswith("train.lr ")).split()[1:3] == ["0.0003", "given"]
    assert next(line for line in lines if line.startswith("train.clip ")).split()[1:3] == ["1.0", "default"]


def test_json_is_the_resolved_recipe_and_can_be_read_again(run):
    resolved = json.loads(run(ONE, "train.lr=3e-4", "--json"))
    assert resolved["train"]["lr"] == 3e-4 and resolved["precision"] == "auto"
    assert check(resolved, "again").model_dump(mode="json") == resolved


def test_a_file_of_both_stages_is_shown_stage_by_stage(run):
    stages = json.loads(run(BOTH, "--json"))
    assert list(stages) == ["stage1", "stage2"]
    assert json.loads(run(BOTH, "--json", "--stage", "2")) == stages["stage2"]
    assert run(BOTH).count("\nstage ") + run(BOTH).startswith("stage ") == 2


def test_a_slip_is_told(run):
    with pytest.raises(ConfigError, match=r"unknown key `train.stps`; did you mean `train.steps`"):
        run(ONE, "train.stps=3")


@pytest.mark.parametrize("arguments", [["schema"], ["show", "recipes/own-folder.yaml"], ["--help"]])
def test_no_torch_is_loaded(arguments):
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-c", _LIGHT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert done.stderr.strip() == "[]" and done.stdout

"""Recipes: each is valid and says what it costs, the quickstart's are its own, the paper's has the paper's schedule."""

import re
from pathlib import Path

import pytest

from isthmus.config.describe import knobs
from isthmus.config.run import read_yaml
from isthmus.config.stages import load_stages
from isthmus.quickstart.artists import WEIGHTS

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
OWN = ROOT / "src" / "isthmus" / "quickstart"
NAMES = {
    *("quickstart-stage1.yaml", "quickstart-stage2.yaml", "own-folder.yaml"),
    *("blip2-stage1.yaml", "blip2-stage2.yaml", "lavis.yaml"),
}


def runs(name):
    return load_stages(ROOT / "recipes" / name).runs


def test_the_recipes_are_there():
    assert {path.name for path in RECIPES} >= NAMES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_is_valid_and_its_header_says_how_and_how_long(path):
    stages = load_stages(path)
    assert [run.stage for run in stages.runs] == [1, 2] if stages.in_turn else len(stages.runs) == 1
    header = [line for line in path.read_text().splitlines() if line.startswith("#   ")]
    said = {line.split()[1] for line in header}
    assert {"command", "hardware", "time", "expect"} <= said
    command = next(line for line in header if line.split()[1] == "command")
    assert f"isthmus train recipes/{path.name}" in command


@pytest.mark.parametrize("stage", [1, 2])
def test_the_quickstart_s_recipe_is_its_own(stage):
    assert read_yaml(ROOT / "recipes" / f"quickstart-stage{stage}.yaml") == read_yaml(OWN / f"stage{stage}.yaml")
    assert load_stages(OWN / f"stage{stage}.yaml").runs[0].stage == stage


@pytest.mark.parametrize("name", ["quickstart-stage1.yaml", "quickstart-stage2.yaml", "own-folder.yaml"])
def test_a_recipe_states_the_licences_of_the_weights_that_it_names(name):
    known = {weights.package.replace("-", "_"): weights.licence for weights in WEIGHTS}
    towers = [tower for run in runs(name) for tower in (run.encoder, run.llm) if tower is not None]
    assert towers
    for tower in towers:
        assert tower.licence == known[tower.weights.removeprefix("package:").partition("/")[0]]


def test_the_paper_s_schedule_is_the_paper_s():
    (one,), (two,) = runs("blip2-stage1.yaml"), runs("blip2-stage2.yaml")
    assert [(run.train.steps, 16 * run.train.batch_size) for run in (one, two)] == [(250_000, 1680), (80_000, 1920)]
    for run in (one, two):
        assert run.train.warmup * run.train.steps == pytest.approx(2000)
        assert (run.train.lr, run.train.beta2, run.train.weight_decay) == (1e-4, 0.98, 0.05)
    assert two.train.lr * two.train.lr_min == pytest.approx(5e-5)
    assert two.init.folder == one.output and one.encoder == two.encoder


def test_the_original_s_switches_are_all_at_the_original_s_side():
    one, two = runs("lavis.yaml")
    switches = {
        1: {"objectives.gather", "objectives.identity", "objectives.negatives", "objectives.clamp_temperature"}
        | {"bridge.fold_token_type", "bridge.dec", "train.token_mean", "train.beta2"}
        | {"train.decay_temperature", "train.schedule", "train.warmup_from"},
        2: {"llm.prompt.bos", "llm.dropout"}
        | {"train.token_mean", "train.beta2", "train.schedule", "train.warmup_from"},
    }
    for run in (one, two):
        stage = {knob.key: knob for knob in knobs(run)}
        told = {key for key, knob in stage.items() if re.search(r"the original|BLIP-2's own|the paper's", knob.meaning)}
        if run.stage == 2:
            told = {key for key in told if key.split(".")[0] not in ("objectives", "bridge")}
            told = {key for key in told if not stage[key].meaning.startswith("Stage 1 only")}
        assert told == switches[run.stage]
        assert all(stage[key].given for key in told)
    assert (one.objectives.gather, one.objectives.identity, one.objectives.negatives) == ("detached", "off", "hard")
    assert (one.objectives.clamp_temperature, one.bridge.fold_token_type, one.bridge.dec) == (False, False, "random")
    assert two.llm.dropout is True
    assert (two.llm.prompt.bos, two.train.token_mean, two.train.beta2) == ("after_soft_prompt", "per_rank", 0.999)
    assert one.train.decay_temperature and [run.train.schedule for run in (one, two)] == ["epoch", "epoch"]


def test_the_original_s_rates_are_the_original_s():
    one, two = runs("lavis.yaml")
    for run, warmup in ((one, 5000), (two, 2000)):
        assert round(run.train.warmup * run.train.steps) == warmup
        assert run.train.lr == pytest.approx(1e-4)
        assert run.train.lr * run.train.lr_min == pytest.approx(1e-5)
        assert run.train.lr * run.train.warmup_from == pytest.approx(1e-6)

"""`isthmus evaluate` on tiny runs: several captions a picture, the ranking's weight, metrics, and the one JSON."""

import json
import re
import shlex
from importlib.metadata import version
from pathlib import Path

import pytest

from command_line import isthmus, tiny_recipes
from isthmus.checkpoints.native import read_bridge
from isthmus.data.folder import ImageFolder
from isthmus.tasks import coco
from isthmus.tasks.rerank import GRID
from isthmus.tasks.retrieval import DIRECTIONS
from isthmus.vision.encoder import Encoder

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Both stages trained; `several.jsonl` gives eight of the pictures one to three captions and shares a thing."""
    place = tmp_path_factory.mktemp("world")
    for recipe in tiny_recipes(place):
        assert isthmus("train", recipe, "train.steps=2", "train.evaluate_every=null") == 0
    captions = [["a cat", "cat"], ["a dog"], ["A red fish", "fish", "a fish"], ["bird"]] * 2
    lines = [
        json.dumps({"file_name": f"{n}.png", "text": texts, "image_id": "x" if n in (1, 2) else f"{n}"})
        for n, texts in enumerate(captions)
    ]
    (place / "pictures" / "several.jsonl").write_text("\n".join(lines))
    return place


def evaluated(world, run, *options):
    assert isthmus("evaluate", world / run, *options) == 0
    return json.loads((world / run / "evaluation.json").read_text())


SEVERAL = "data.evaluation.metadata=several.jsonl"


def test_all_captions_are_asked_and_all_three_orders_reported(world):
    record = evaluated(world, "one", SEVERAL)
    figures = record["figures"]
    assert (figures["candidates"], figures["texts"], figures["pictures"]) == (8, 14, 8)
    assert record["data"] | {"held_out": ""} == {"held_out": "", "pictures": 8, "captions": 14}
    assert "several.jsonl" in record["data"]["held_out"]
    for order in (figures, figures["reranked"], figures["original_sum"]):
        for direction in DIRECTIONS:
            scores = order[direction]
            assert set(scores) == {"R@1", "R@5", "R@10", "mean_rank", "median_rank"}
            assert 0 <= scores["R@1"] <= scores["R@5"] <= scores["R@10"] <= 100 and scores["mean_rank"] >= 1
    assert set(figures["confidence"]) >= {*DIRECTIONS, "reranked", "original_sum", "gain", "exact_match", "level"}
    assert figures["ranking"] == {"weight": 0.25, "rule": "log_odds", "shortlist": 16, "chosen_on": None}
    assert [true for _, true in figures["captions"]] == ["a cat", "a dog", "A red fish", "bird"] * 2


def test_the_weight_is_chosen_kept_in_the_folder_and_used_again(world, capfd):
    capfd.readouterr()
    chosen = evaluated(world, "one", SEVERAL, "--choose-ranking")["figures"]
    assert "chosen on these very pictures" in " ".join(capfd.readouterr().out.split())
    ranking = chosen["ranking"]
    grid = {row["weight"]: row["text_to_image"] for row in ranking["grid"]}
    assert tuple(grid) == GRID
    best = max(grid, key=lambda weight: (grid[weight]["R@1"], grid[weight]["R@5"], -weight))
    assert ranking["weight"] == best and "several.jsonl" in ranking["chosen_on"]
    assert chosen["reranked"]["text_to_image"] == grid[best]
    assert grid[0.0] == chosen["text_to_image"]
    assert read_bridge(world / "one" / "bridge").provenance["ranking"] == ranking
    again = evaluated(world, "one")["figures"]["ranking"]
    assert again == {name: value for name, value in ranking.items() if name != "grid"}
    assert "weight was chosen on" in " ".join(capfd.readouterr().out.split())


def test_a_bridge_of_stage_2_has_nothing_to_re_rank_with(world, capfd):
    capfd.readouterr()
    assert isthmus("evaluate", world / "two", "--choose-ranking") == 2
    assert "no ITC and ITM heads, so there is nothing to re-rank with" in capfd.readouterr().err


def test_the_original_s_sum_is_a_switch_that_the_folder_keeps(world, capfd):
    by_default = evaluated(world, "one", SEVERAL)["figures"]
    switched = evaluated(world, "one", SEVERAL, "--ranking", "original")["figures"]
    assert switched["ranking"]["rule"] == "original"
    assert switched["reranked"] == switched["original_sum"] == by_default["original_sum"]
    assert evaluated(world, "one", SEVERAL)["figures"]["ranking"] == switched["ranking"]
    back = evaluated(world, "one", SEVERAL, "--ranking", "log_odds")["figures"]
    assert (back["ranking"], back["reranked"]) == (by_default["ranking"], by_default["reranked"])
    capfd.readouterr()
    assert isthmus("evaluate", world / "one", "--ranking", "original", "--choose-ranking") == 2
    assert "--ranking original has none" in capfd.readouterr().err
    assert isthmus("evaluate", world / "two", "--ranking", "original") == 2
    assert "nothing to re-rank with" in capfd.readouterr().err


@pytest.mark.parametrize("run", ["one", "two"])
def test_json_stands_alone_on_stdout_and_says_what_the_figures_depend_on(world, run, capfd):
    capfd.readouterr()
    record = evaluated(world, run, SEVERAL, "--json")
    shown = capfd.readouterr()
    assert json.loads(shown.out) == record
    assert "written to" in shown.err
    assert record["stage"] == {"one": 1, "two": 2}[run] and record["step"] == 2
    assert record["decoding"]["max_new_tokens"] == 32 and record["decoding"]["temperature"] == 0.0
    assert (record["normaliser"], record["seed"]) == (1, 0)
    assert ("not looking" in record["meaning"].get("gap", "")) == (run == "two")
    assert record["precision"] in ("float32", "bfloat16")
    assert record["versions"]["torch"] == version("torch") and record["versions"]["isthmus"] == version("isthmus")
    assert (record["prompt"] is None) == (run == "one")


def test_the_gap_is_told_with_what_it_means(world, capfd):
    capfd.readouterr()
    figures = evaluated(world, "two", SEVERAL)["figures"]
    assert figures["loss"]["gap"] == pytest.approx(figures["loss"]["shuffled"] - figures["loss"]["right"])
    assert "what a wrong picture costs the language model" in " ".join(capfd.readouterr().out.split())


def test_captions_are_searched_by_beams_and_cut_where_asked(world, capfd):
    record = evaluated(world, "two", SEVERAL, "--num-beams", "3", "--max-new-tokens", "1")
    assert (record["decoding"]["num_beams"], record["decoding"]["max_new_tokens"]) == (3, 1)
    capfd.readouterr()
    assert isthmus("evaluate", world / "one", SEVERAL, "--num-beams", "2") == 2
    assert "writes without beams" in capfd.readouterr().err


def test_metrics_of_coco_and_what_is_missing_for_them(world, monkeypatch, capfd):
    found = evaluated(world, "two", SEVERAL, "--metrics", "bleu", "--metrics", "cider")["figures"]
    assert set(found["coco"]) == {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr", "pictures", "empty"}
    assert found["coco"]["pictures"] == 8
    monkeypatch.setattr(coco, "find_spec", lambda _: None)
    capfd.readouterr()
    lacking = evaluated(world, "two", SEVERAL, "--metrics", "coco")["figures"]
    assert "need the extra eval" in lacking["coco"]["missing"] and "need the extra eval" in capfd.readouterr().out
    assert {**lacking, "coco": None} == {**found, "coco": None}
    assert "coco" not in evaluated(world, "two", SEVERAL)["figures"]


@pytest.mark.timeout(600)
def test_every_snippet_of_the_page_runs(world, monkeypatch, capsys):
    """The commands on these runs and pictures; the lines of Python as they stand."""
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    monkeypatch.chdir(world)
    for names in (("runs/own/stage1", "one"), ("runs/own/stage2", "two")):
        page = page.replace(*names)
    page = re.sub(r"(held-out|development)\.jsonl", "several.jsonl", page)
    commands = [line for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 4
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "isthmus" and isthmus(*arguments) == 0, command
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    capsys.readouterr()
    exec(lines, {"folder": Path("two")})
    assert (
        float(capsys.readouterr().out) == json.loads(Path("two/evaluation.json").read_text())["figures"]["loss"]["gap"]
    )


@pytest.mark.parametrize("run", ["one", "two"])
def test_from_pixels_each_picture_is_encoded_once(world, run, monkeypatch):
    encoded, forward = [], Encoder.forward

    def count(self, pixels):
        encoded.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(Encoder, "forward", count)
    evaluated(world, run, SEVERAL, "features.folder=null")
    assert sum(encoded) == len(ImageFolder(world / "pictures", "several.jsonl")) == 8

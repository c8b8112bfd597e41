"""The same two recipes with towers of every kind: train, evaluate, caption."""

import json

import pytest

from command_line import isthmus, tiny_recipes
from fakes import tiny_chat_folder, tiny_dinov2_folder, tiny_siglip_folder, tiny_t5_folder
from isthmus.checkpoints.native import read_bridge

pytestmark = pytest.mark.e2e

FEW = ["train.steps=2", "train.evaluate_every=null"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The towers' folders, and stage 1 trained with each encoder in turn."""
    place = tmp_path_factory.mktemp("towers")
    tiny_recipes(place)
    for make in (tiny_siglip_folder, tiny_dinov2_folder, tiny_t5_folder, tiny_chat_folder):
        make(place / make.__name__.removeprefix("tiny_").removesuffix("_folder"))
    for encoder in ("clip", "siglip", "dinov2"):
        assert (
            isthmus("train", place / "one.yaml", *FEW, *seen_by(place, encoder), f"output={place / encoder}-one") == 0
        )
    return place


def seen_by(place, encoder):
    return [f"encoder.weights=folder:{place / encoder}", f"features.folder={place / encoder}-features"]


def stage2(place, name, *options, encoder="clip"):
    """Train stage 2 into `name`; its bridge's file."""
    start = [f"init.from={place / encoder}-one", f"output={place / name}"]
    assert isthmus("train", place / "two.yaml", *FEW, *seen_by(place, encoder), *start, *options) == 0
    assert all(json.loads((place / name / "run.json").read_text())["towers_unchanged"].values())
    return read_bridge(place / name / "bridge")


def scored(place, name):
    """Evaluating the folder gives what training found."""
    assert isthmus("evaluate", place / name) == 0
    figures, trained = (
        json.loads((place / name / file).read_text())["figures"] for file in ("evaluation.json", "run.json")
    )
    assert figures["loss"]["right"] == trained["loss"]["right"] > 0
    assert figures["captions"] == trained["captions"] and len(figures["captions"]) == 24


@pytest.mark.parametrize(("encoder", "patches"), [("siglip", 16), ("dinov2", 17)])
def test_stage_1_with_another_encoder(world, encoder, patches):
    file = read_bridge(world / f"{encoder}-one" / "bridge")
    assert file.provenance["towers"]["encoder"]["address"] == f"folder:{world / encoder}"
    assert file.sizes.vision_width == 16
    assert isthmus("evaluate", world / f"{encoder}-one") == 0
    assert f'"patches": {patches}' in (world / f"{encoder}-features" / "manifest.json").read_text()


def test_stage_2_with_an_encoder_decoder(world):
    file = stage2(
        world, "t5-two", f"llm.weights=folder:{world / 't5'}", "llm.prompt.after=a photo of ", encoder="siglip"
    )
    prompt = file.provenance["prompt"]
    assert (prompt["end"], prompt["caption_prefix"], prompt["after"]) == ("", "", "a photo of")
    scored(world, "t5-two")
    whole = stage2(world, "t5-whole", f"llm.weights=folder:{world / 't5'}", "llm.prefix_lm=false", encoder="siglip")
    assert whole.provenance["config"]["llm"]["prefix_lm"] is False
    logs = [(world / name / "log.jsonl").read_text() for name in ("t5-two", "t5-whole")]
    assert json.loads(logs[0].splitlines()[1])["lm"] != json.loads(logs[1].splitlines()[1])["lm"]


def test_stage_2_with_a_chat_template(world):
    options = [f"llm.weights=folder:{world / 'chat'}", "llm.prompt.chat=true", "llm.prompt.after= what is it?"]
    file = stage2(world, "chat-two", *options)
    assert file.provenance["prompt"]["turns"] == ["<|user|>", "</s><|assistant|>", "</s>"]
    scored(world, "chat-two")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["llm.prompt.chat=true"], "has no chat template"),
        (["llm.prefix_lm=true"], "`llm.prefix_lm` is a switch of encoder-decoder models"),
        (["llm.weights=folder:{place}/t5", "llm.prompt.chat=true"], "is an encoder-decoder"),
        (["llm.prompt.chat=true", "llm.prompt.end=stop"], "prompt's `end` is the chat template's own affair"),
        (["llm.weights=folder:{place}/clip"], "cannot be loaded"),
    ],
)
def test_a_switch_that_a_tower_does_not_have_is_one_line(world, capfd, options, message):
    given = [option.format(place=world) for option in options]
    capfd.readouterr()
    start = [f"init.from={world}/clip-one", f"output={world}/never", *seen_by(world, "clip")]
    assert isthmus("train", world / "two.yaml", *FEW, *start, *given) == 2
    err = capfd.readouterr().err
    assert message in err and err.startswith("isthmus: ") and err.count("\n") == 1, err
    assert not (world / "never").exists()

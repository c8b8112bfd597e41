"""The same two recipes with towers of every kind: train, evaluate, caption."""

import json

import pytest
from transformers import LlamaForCausalLM

from command_line import isthmus, tiny_recipes
from fake_encoders import tiny_blip2_folder, tiny_dinov3_folder, tiny_timm_file, tiny_vit_folder
from fakes import tiny_chat_folder, tiny_dinov2_folder, tiny_llama_folder, tiny_siglip_folder, tiny_t5_folder
from gguf_files import tiny_gguf
from isthmus.checkpoints.native import read_bridge

pytestmark = pytest.mark.e2e

FEW = ["train.steps=2", "train.evaluate_every=null"]
FOLDERS = {
    "siglip": (tiny_siglip_folder, 16),  # SigLIP2 of fixed size is the same
    "dinov2": (tiny_dinov2_folder, 17),
    "dinov3": (tiny_dinov3_folder, 21),
    "vit": (tiny_vit_folder, 17),
    "blip2": (tiny_blip2_folder, 17),
}
"""transformers' families beside CLIP, which every other test has, with their number of patches."""
TIMM = {"test_vit": (64, 101), "test_efficientnet": (256, 25)}
"""A transformer and a convolution network of timm: width and number of patches."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The towers' folders and files, and stage 1 trained with CLIP."""
    place = tmp_path_factory.mktemp("towers")
    tiny_recipes(place)
    for make in (tiny_t5_folder, tiny_chat_folder):
        make(place / make.__name__.removeprefix("tiny_").removesuffix("_folder"))
    for encoder, (make, _) in FOLDERS.items():
        make(place / encoder)
    for encoder in TIMM:
        tiny_timm_file(place / f"{encoder}.safetensors", encoder)
    stage1(place, "clip")
    return place


def seen_by(place, encoder):
    """The recipe's lines for an encoder: its kind, its weights, and a store of its own."""
    store = f"features.folder={place / encoder}-features"
    if encoder in TIMM:
        weights = f"encoder.weights=file:{place / encoder}.safetensors"
        return ["encoder.kind=timm", f"encoder.name={encoder}", weights, store]
    return [f"encoder.weights=folder:{place / encoder}", store]


def stage1(place, encoder):
    """Train stage 1 with an encoder; its bridge's file."""
    output = place / f"{encoder}-one"
    assert isthmus("train", place / "one.yaml", *FEW, *seen_by(place, encoder), f"output={output}") == 0
    return read_bridge(output / "bridge")


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


def both_stages(place, encoder, width, patches):
    """Both stages with an encoder, scored, and a caption of a picture by each."""
    file = stage1(place, encoder)
    assert file.sizes.vision_width == width
    assert isthmus("evaluate", place / f"{encoder}-one") == 0
    assert f'"patches": {patches}' in (place / f"{encoder}-features" / "manifest.json").read_text()
    stage2(place, f"{encoder}-two", encoder=encoder)
    scored(place, f"{encoder}-two")
    for stage in ("one", "two"):
        assert isthmus("caption", place / "pictures" / "0.png", "--model", place / f"{encoder}-{stage}") == 0
    return file.provenance["towers"]["encoder"]["address"]


@pytest.mark.parametrize("encoder", FOLDERS)
def test_both_stages_with_another_family(world, encoder):
    assert both_stages(world, encoder, 16, FOLDERS[encoder][1]) == f"folder:{world / encoder}"


@pytest.mark.parametrize("encoder", TIMM)
def test_both_stages_with_a_network_of_timm(world, encoder):
    assert both_stages(world, encoder, *TIMM[encoder]) == f"timm:{encoder} file:{world / encoder}.safetensors"


def test_stage_2_with_a_gguf_file(world):
    plain = LlamaForCausalLM.from_pretrained(tiny_llama_folder(world / "plain"))
    address = f"file:{tiny_gguf(world / 'tiny.gguf', plain)}"
    file = stage2(world, "gguf-two", f"llm.weights={address}", f"llm.cache={world / 'cache'}")
    assert file.provenance["towers"]["llm"]["address"] == address
    scored(world, "gguf-two")
    assert isthmus("caption", world / "pictures" / "0.png", "--model", world / "gguf-two") == 0


def test_stage_2_with_an_encoder_decoder(world):
    file = stage2(world, "t5-two", f"llm.weights=folder:{world / 't5'}", "llm.prompt.after=a photo of ")
    prompt = file.provenance["prompt"]
    assert (prompt["end"], prompt["caption_prefix"], prompt["after"]) == ("", "", "a photo of")
    scored(world, "t5-two")
    whole = stage2(world, "t5-whole", f"llm.weights=folder:{world / 't5'}", "llm.prefix_lm=false")
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

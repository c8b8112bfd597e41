"""`isthmus convert`: what was trained here leaves for plain transformers, and what was published comes in."""

import json

import pytest
import torch
import yaml
from transformers import AutoProcessor, Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval, Blip2QFormerModel

from blip2_models import conditional, save_whole
from command_line import isthmus, tiny_recipes
from fake_encoders import tiny_blip2_folder
from isthmus import Predictor, Processor


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Both stages trained for two steps on BLIP-2's own image tower, and a published folder."""
    place = tmp_path_factory.mktemp("convert")
    eye = tiny_blip2_folder(place / "eye")
    for recipe in tiny_recipes(place):
        content = yaml.safe_load(recipe.read_text())
        content["encoder"]["weights"] = f"folder:{eye}"
        content["train"]["lr"] = 3e-2
        if content["stage"] == 2:
            content["llm"]["prompt"] = {"bos": "after_soft_prompt", "caption_prefix": ""}
        recipe.write_text(yaml.safe_dump(content))
        assert isthmus("train", recipe, "train.steps=4", "train.evaluate_every=null", "data.evaluation=null") == 0
    save_whole(conditional(), place / "published")
    return place


def test_a_trained_stage_2_writes_the_same_captions_in_plain_transformers(world, tmp_path, capfd):
    assert isthmus("convert", world / "two", tmp_path / "out", "--to", "transformers", "--json") == 0
    told = json.loads(capfd.readouterr().out)
    assert told["layout"] == "Blip2ForConditionalGeneration" and told["left_behind"] == []
    apart = told["against_isthmus"]["logits"]
    assert 0 < apart["largest_difference"] < 1e-2 * apart["largest_number"]  # two eps of one LayerNorm
    card = (tmp_path / "out/README.md").read_text()
    assert f"| logits | {apart['largest_difference']:.2e} |" in card and "one eps for all norms" in card
    model = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    processor, pictures = Processor.from_pretrained(tmp_path / "out"), sorted((world / "pictures").glob("*.png"))[:4]
    given = processor(images=pictures, text=[""] * 4)
    with torch.inference_mode():
        rows = model.generate(**given, max_new_tokens=6)[:, given["input_ids"].shape[1] :]
    ours = Predictor.from_pretrained(world / "two", device="cpu", dtype="float32")
    assert ours.caption(pictures, "", max_new_tokens=6) == [
        text.split("\n")[0].strip() for text in processor.batch_decode(rows)
    ]


def test_a_trained_stage_1_scores_the_same_and_says_what_it_lost(world, tmp_path, capfd):
    assert isthmus("convert", world / "one", tmp_path / "out", "--to", "transformers") == 0
    shown = capfd.readouterr().out
    assert "layout: Blip2ForImageTextRetrieval" in shown
    assert "heads.temperature" in shown and "qformer.text.head.bias" in shown
    assert "`heads.temperature`" in (tmp_path / "out/README.md").read_text()
    Blip2ForImageTextRetrieval.from_pretrained(tmp_path / "out")
    AutoProcessor.from_pretrained(tmp_path / "out")
    assert isthmus("convert", tmp_path / "out", tmp_path / "back") == 0
    shown = capfd.readouterr().out
    assert "absent: LM head, temperature" in shown


def test_the_q_former_alone_leaves_with_any_tower(world, tmp_path):
    assert isthmus("convert", world / "one", tmp_path / "alone", "--to", "qformer") == 0
    Blip2QFormerModel.from_pretrained(tmp_path / "alone")


def test_a_published_folder_is_one_command_from_captions(world, tmp_path, capfd):
    assert isthmus("convert", world / "published", tmp_path / "ours") == 0
    capfd.readouterr()
    picture = next((world / "pictures").glob("*.png"))
    assert isthmus("caption", picture, "--model", tmp_path / "ours", "--max-new-tokens", "4", "--json") == 0
    assert json.loads(capfd.readouterr().out.splitlines()[0])["file_name"] == str(picture)
    assert isthmus("evaluate", tmp_path / "ours") == 2
    assert "was converted from" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["two", "OUT"], "is isthmus's own folder: say what to write, --to transformers or --to qformer"),
        (["published", "OUT", "--to", "transformers"], "--to is for isthmus's own folders"),
        (["two", "taken", "--to", "transformers"], "exists and is not empty; choose another place"),
        (["pictures", "OUT"], "config.json cannot be read; give a folder that transformers wrote"),
        (["nowhere", "OUT"], "nowhere"),
        (["nowhere.pth", "OUT"], "there is no file"),
        (["two", "OUT", "--to", "transformers", "--hidden-layer", "-2"], "leave them out beside --to"),
        (["clip", "OUT"], "known are Blip2ForConditionalGeneration"),
    ],
)
def test_wrong_inputs_are_one_line(world, tmp_path, arguments, message, capfd):
    (world / "taken").mkdir(exist_ok=True)
    (world / "taken/notes.txt").write_text("mine")
    source, output, *options = arguments
    place = tmp_path / "out" if output == "OUT" else world / output
    capfd.readouterr()
    assert isthmus("convert", world / source, place, *options) == 2
    told = capfd.readouterr().err.strip()
    assert message in told and len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()

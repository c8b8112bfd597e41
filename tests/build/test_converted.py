"""Whole models of transformers into isthmus and back: the same captions and scores, the same bits."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2QFormerModel,
    InstructBlipForConditionalGeneration,
)

from blip2_models import conditional, instruct, lavis_state, retrieval, save_whole, untied
from bridges import tiny_bridge
from fakes import tiny_bert_folder, tiny_clip_folder, tiny_llama_folder, tiny_t5_folder
from isthmus import Predictor
from isthmus.build.compared import compare
from isthmus.build.exported import check_exportable, export_model, export_qformer
from isthmus.build.folders import Moved
from isthmus.build.going_on import read_start, stage1_from
from isthmus.build.imported import Towers, convert_in
from isthmus.build.precision import choose_compute
from isthmus.build.pretrained import Wishes, load_alone, load_pretrained
from isthmus.build.towers import build_encoder
from isthmus.build.workshop import make_tower
from isthmus.checkpoints.native import read_bridge, update_provenance
from isthmus.config.model import BridgeConfig, EncoderConfig
from isthmus.config.run import InitConfig
from isthmus.errors import AbsentPartError, CheckpointError, ConfigError, TowerError

FP32 = Wishes(device="cpu", dtype="float32")


def pictures():
    colours = [(200, 30, 30), (20, 60, 220), (240, 240, 10)]
    made = [Image.new("RGB", (28, 28), colour) for colour in colours]
    for number, picture in enumerate(made):
        picture.paste((0, 0, 0), (number * 5, 3, number * 5 + 9, 20))
    return made


@pytest.fixture(scope="module", params=["opt", "t5"])
def world(request, tmp_path_factory):
    """A published folder of a kind, and what came of it."""
    root = tmp_path_factory.mktemp(request.param)
    save_whole(conditional(request.param), root / "theirs", kind=request.param)
    file = convert_in(str(root / "theirs"), root / "ours", Towers())
    return root, file


def theirs(folder, kind=Blip2ForConditionalGeneration):
    return kind.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def test_a_t5_with_a_head_of_its_own_keeps_it(tmp_path):
    model = save_whole(untied(conditional("t5")), tmp_path / "theirs", kind="t5")
    before = load_file(model / "model.safetensors")
    assert not torch.equal(before["language_model.lm_head.weight"], before["language_model.shared.weight"])
    convert_in(str(tmp_path / "theirs"), tmp_path / "ours", Towers())
    pretrained = load_pretrained([tmp_path / "ours"], FP32)
    exported = export_model(pretrained, 2, tmp_path / "back")
    after = load_file(tmp_path / "back/model.safetensors")
    assert torch.equal(before["language_model.lm_head.weight"], after["language_model.lm_head.weight"])
    assert compare(pretrained, 2, exported)["logits"].largest <= 1e-5


def test_a_t5_pads_on_the_right_so_that_short_rows_are_what_they_are_alone(tmp_path):
    """Image tokens come first and padding would part them from the text, whose distance T5 counts."""
    save_whole(conditional("t5"), tmp_path / "theirs", kind="t5")
    convert_in(str(tmp_path / "theirs"), tmp_path / "ours", Towers())
    export_model(load_pretrained([tmp_path / "ours"], FP32), 2, tmp_path / "back")
    model, processor = theirs(tmp_path / "back")

    def written(images, texts):
        given = processor(images=images, text=texts, padding=True, return_tensors="pt")
        start = torch.zeros(len(texts), 1, dtype=torch.long)
        return model(**given, decoder_input_ids=start).logits[:, 0]

    texts = ["a", "a photo of a boat"]
    alone = torch.cat([written([picture], [text]) for picture, text in zip(pictures(), texts, strict=False)])
    assert torch.allclose(written(pictures()[:2], texts), alone, atol=1e-6)


def test_a_place_with_something_in_it_is_never_taken(world, tmp_path):
    root, _ = world
    before = sorted((root / "theirs").iterdir())
    for place in (root / "theirs", root / "ours"):
        with pytest.raises(CheckpointError, match="exists and is not empty; choose another place"):
            convert_in(str(root / "theirs"), place, Towers())
    ours = Predictor.from_pretrained(root / "ours", device="cpu")
    with pytest.raises(CheckpointError, match="is no model folder of isthmus"):
        ours.save_pretrained(root / "theirs")
    assert sorted((root / "theirs").iterdir()) == before


def test_another_picture_size_cannot_leave_whole_and_is_another_encoder(world, tmp_path):
    root, _ = world
    provenance = read_bridge(root / "ours").provenance
    encoder = {**provenance["config"]["encoder"], "image_size": 42}
    shutil.copytree(root / "ours", tmp_path / "wide")
    update_provenance(tmp_path / "wide", {"config": {**provenance["config"], "encoder": encoder}})
    with pytest.raises(CheckpointError, match=r"trained with encoder\.image_size=None of .*, not 42"):
        load_pretrained([tmp_path / "wide"], FP32)
    towers = {**provenance["towers"], "encoder": {**provenance["towers"]["encoder"], "image_size": 42}}
    update_provenance(tmp_path / "wide", {"towers": towers})
    with pytest.raises(ConfigError, match=r"sees pictures of 42 pixels.* its weights are for 28.*--to qformer"):
        check_exportable(load_pretrained([tmp_path / "wide"], FP32), 2)


@pytest.mark.parametrize("beams", [1, 3])
def test_captions_are_those_of_transformers(world, beams):
    root, _ = world
    model, processor = theirs(root / "theirs")
    ours = Predictor.from_pretrained(root / "ours", device="cpu", dtype="float32")
    for prompt in ("", "a cat "):
        given = processor(images=pictures(), text=[prompt] * 3, return_tensors="pt")
        rows = model.generate(**given, max_new_tokens=6, num_beams=beams, do_sample=False)
        new = rows if model.language_model.config.is_encoder_decoder else rows[:, given["input_ids"].shape[1] :]
        written = [text.split("\n")[0].strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
        assert ours.caption(pictures(), prompt, max_new_tokens=6, num_beams=beams) == written


def test_a_round_trip_gives_the_same_bits(world, tmp_path):
    root, _ = world
    pretrained = load_pretrained([root / "ours"], FP32)
    exported = export_model(pretrained, 2, tmp_path / "back")
    assert not exported.lost
    found = compare(pretrained, 2, exported)
    assert found["logits"].largest <= 1e-5 and found["logits"].scale > 0.01
    before, after = load_file(root / "theirs/model.safetensors"), load_file(tmp_path / "back/model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    again = convert_in(str(tmp_path / "back"), tmp_path / "again", Towers())
    ours = read_bridge(root / "ours")
    assert again.sizes == ours.sizes
    assert all(torch.equal(again.tensors[name], ours.tensors[name]) for name in ours.tensors)
    assert again.provenance["towers"]["llm"]["fingerprint"] == ours.provenance["towers"]["llm"]["fingerprint"]


def test_a_converted_folder_says_where_it_came_from(world):
    root, file = world
    card = (root / "ours/README.md").read_text()
    assert f"Converted from `{root / 'theirs'}`, read as Blip2ForConditionalGeneration" in card
    assert file.provenance["towers"]["encoder"]["address"] == f"folder:{root / 'theirs'}"
    assert not list((root / "ours").glob("tokenizer*"))


@pytest.fixture(scope="module", params=["opt", "t5"])
def asking(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(f"asking-{request.param}")
    save_whole(instruct(request.param), root / "theirs", kind=request.param)
    convert_in(str(root / "theirs"), root / "ours", Towers())
    return root


@pytest.mark.parametrize("beams", [1, 2])
def test_answers_are_those_of_transformers(asking, beams):
    model, processor = theirs(asking / "theirs", InstructBlipForConditionalGeneration)
    ours = Predictor.from_pretrained(asking / "ours", device="cpu", dtype="float32")
    for question in ("a cat", "what is the small blue"):
        given = processor(images=pictures(), text=[question] * 3, return_tensors="pt")
        rows = model.generate(**given, max_new_tokens=6, num_beams=beams, do_sample=False)
        new = rows if model.language_model.config.is_encoder_decoder else rows[:, given["input_ids"].shape[1] :]
        written = [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
        assert ours.ask(pictures(), question, max_new_tokens=6, num_beams=beams) == written
    with pytest.raises(AbsentPartError, match="ask"):
        ours.caption(pictures())
    card = (asking / "ours/README.md").read_text()
    assert "It answers questions about pictures" in card and "predictor.ask(" in card


def test_instructed_weights_make_the_round_trip_with_equal_logits(asking, tmp_path):
    pretrained = load_pretrained([asking / "ours"], FP32)
    exported = export_model(pretrained, 2, tmp_path / "back")
    assert not exported.lost
    before, after = load_file(asking / "theirs/model.safetensors"), load_file(tmp_path / "back/model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    found = compare(pretrained, 2, exported)
    assert found["logits"].largest <= 1e-5 and found["logits"].scale > 0.01


@pytest.fixture(scope="module")
def matching(tmp_path_factory):
    root = tmp_path_factory.mktemp("matching")
    save_whole(retrieval(), root / "theirs")
    convert_in(str(root / "theirs"), root / "ours", Towers())
    return root


def test_scores_are_those_of_transformers(matching):
    model, processor = theirs(matching / "theirs", Blip2ForImageTextRetrieval)
    ours, texts = Predictor.from_pretrained(matching / "ours", device="cpu"), ["a red cat", "the small blue boat"]
    found = ours.match(pictures(), texts)
    given = processor(images=pictures(), text=texts, padding=True, return_tensors="pt")
    cosines = model(**given, use_image_text_matching_head=False).logits_per_image
    assert torch.allclose(found.itc, cosines, atol=1e-5)
    for column, text in enumerate(texts):
        given = processor(images=pictures(), text=[text] * 3, return_tensors="pt")
        logits = model(**given, use_image_text_matching_head=True).logits_per_image
        assert torch.allclose(found.itm[:, column], logits.softmax(-1)[:, 1], atol=1e-5)
        assert torch.allclose(found.score[:, column], found.itc[:, column] + logits[:, 1], atol=1e-5)
    with pytest.raises(AbsentPartError, match="no LM head"):
        ours.caption(pictures()[0])


def test_retrieval_makes_the_round_trip(matching, tmp_path):
    exported = export_model(load_pretrained([matching / "ours"], FP32), 1, tmp_path / "back")
    assert not exported.lost
    before, after = load_file(matching / "theirs/model.safetensors"), load_file(tmp_path / "back/model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_a_retrieval_folder_that_left_comes_back_and_is_gone_on_from(matching, tmp_path):
    export_model(load_pretrained([matching / "ours"], FP32), 1, tmp_path / "back")
    words = AutoTokenizer.from_pretrained(tmp_path / "back")
    assert words.convert_tokens_to_ids("<image>") == words.convert_tokens_to_ids("[DEC]") + 1  # the processor's mark
    again = convert_in(str(tmp_path / "back"), tmp_path / "again", Towers())
    known = make_tower(
        build_encoder(EncoderConfig(**again.provenance["config"]["encoder"]), choose_compute("cpu", "fp32"))
    )
    init = InitConfig.model_validate({"from": str(tmp_path / "again"), "lm_head": "random", "temperature": 0.07})
    built = stage1_from(read_start(init, known), BridgeConfig(max_tokens=20), seed=0)
    assert built.bridge.sizes.vocabulary == again.sizes.vocabulary
    assert not any("a row for [DEC]" in line for line in built.report)


def test_the_q_former_leaves_alone_and_comes_back_with_its_towers_named(matching, tmp_path):
    exported = export_qformer(load_alone(matching / "ours"), tmp_path / "alone")
    assert {"qformer.queries", "heads.match.weight"} <= set(exported.lost)
    Blip2QFormerModel.from_pretrained(tmp_path / "alone")
    with pytest.raises(ConfigError, match=r"without its encoder; name the one.*--encoder hub:NAME"):
        convert_in(str(tmp_path / "alone"), tmp_path / "again", Towers())
    again = convert_in(str(tmp_path / "alone"), tmp_path / "again", Towers(encoder=f"folder:{matching / 'theirs'}"))
    ours = read_bridge(matching / "ours")
    assert all(torch.equal(again.tensors[name], ours.tensors[name]) for name in ours.tensors)
    assert again.sizes == ours.sizes


def test_a_place_that_is_taken_and_another_image_tower_are_refused(matching, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists and is not empty"):
        export_qformer(load_alone(matching / "ours"), tmp_path / "taken")
    assert (tmp_path / "taken/notes.txt").read_text() == "mine"
    clip, bert = tiny_clip_folder(tmp_path / "clip"), tiny_bert_folder(tmp_path / "bert")
    bridge = tiny_bridge(width=128, heads=2, vision_width=16, vocabulary=len_of(bert)).float()
    torch.save({"model": lavis_state(bridge)}, tmp_path / "stage1.pth")
    towers = Towers(encoder=f"folder:{clip}", hidden_layer=-2, tokenizer=f"folder:{bert}")
    convert_in(str(tmp_path / "stage1.pth"), tmp_path / "lavis", towers)
    with pytest.raises(ConfigError, match=r"can hold only EVA ViT-g as the image tower.*--to qformer"):
        check_exportable(load_pretrained([tmp_path / "lavis"], FP32), 1)
    found = Predictor.from_pretrained(tmp_path / "lavis").match(pictures()[0], ["a cat", "a dog"])
    assert found.score.shape == (1, 2)
    assert Predictor.from_pretrained(tmp_path / "lavis").caption(pictures()[0], max_new_tokens=3) is not None


def len_of(bert):
    return json.loads((bert / "config.json").read_text())["vocab_size"] + 1


@pytest.mark.parametrize(("projection", "width"), [("opt_proj", 16), ("llm_proj", 16), ("t5_proj", 16)])
def test_lavis_stage_2_needs_its_language_model_by_name(tmp_path, projection, width):
    clip = tiny_clip_folder(tmp_path / "clip")
    make = tiny_t5_folder if projection == "t5_proj" else tiny_llama_folder
    llm = make(tmp_path / "llm")
    sizes = {"text": False, "shared_width": None, "language_width": width}
    bridge = tiny_bridge(width=128, heads=2, vision_width=16, **sizes).float()
    path = tmp_path / "stage2.pth"
    torch.save({"model": lavis_state(bridge, projection=projection)}, path)
    encoder = f"folder:{clip}"
    with pytest.raises(ConfigError, match="without its llm; name the one that it was trained with: --llm hub:NAME"):
        convert_in(str(path), tmp_path / "ours", Towers(encoder, -2))
    with pytest.raises(TowerError):
        convert_in(str(path), tmp_path / "ours", Towers(encoder, -2, "folder:/nowhere"))
    assert not (tmp_path / "ours").exists()
    file = convert_in(str(path), tmp_path / "ours", Towers(encoder, -2, f"folder:{llm}"))
    assert file.provenance["config"]["llm"]["activation"] == ("gelu" if projection == "t5_proj" else None)
    assert file.provenance["prompt"]["end"] == ("\n" if projection == "opt_proj" else "")
    assert file.provenance["prompt"]["bos"] == "after_soft_prompt"
    ours = Predictor.from_pretrained(tmp_path / "ours", device="cpu")
    assert isinstance(ours.caption(pictures()[0], max_new_tokens=3), str)
    with pytest.raises(AbsentPartError):
        ours.match(pictures()[0], ["a cat"])


def test_wishes_about_towers_that_moved_reach_the_export(world, tmp_path):
    root, _ = world
    moved = tmp_path / "moved"
    (root / "theirs").rename(moved)
    try:
        with pytest.raises(TowerError, match="is no longer at"):
            load_pretrained([root / "ours"], FP32)
        wishes = Wishes(device="cpu", dtype="float32", towers=Moved(f"folder:{moved}", f"folder:{moved}"))
        assert check_exportable(load_pretrained([root / "ours"], wishes), 2).name == "Blip2ForConditionalGeneration"
    finally:
        moved.rename(root / "theirs")

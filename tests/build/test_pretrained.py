"""Folders to models: what is loaded once, in which precision, from where; what does not fit is refused; saving."""

import json
import logging
import shutil

import pytest
import torch
import yaml

from fakes import tiny_clip_folder, tiny_llama_folder
from folders import save_stage, tiny_stages
from isthmus import Predictor
from isthmus.build import pretrained
from isthmus.checkpoints.native import read_bridge, update_provenance
from isthmus.errors import CheckpointError, ConfigError, TowerError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny_stages(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def pictures(place):
    return sorted((place / "pictures").iterdir())


@pytest.fixture
def copy(place, tmp_path):
    """The place anew, to be changed."""
    shutil.copytree(place, tmp_path / "copy")
    return tmp_path / "copy"


def test_each_tower_is_loaded_once_and_the_llm_in_its_dtype(place, monkeypatch):
    loaded = []
    for name in ("build_encoder", "build_llm"):
        build = getattr(pretrained, name)
        monkeypatch.setattr(pretrained, name, lambda *a, build=build, **k: loaded.append(build(*a, **k)) or loaded[-1])
    predictor = Predictor.from_pretrained(place, dtype="bfloat16")
    assert [type(model).__name__ for model in loaded] == ["TransformersEncoder", "DecoderOnlyLLM"]
    assert all(p.dtype == torch.bfloat16 for model in loaded for p in model.parameters())
    assert predictor.dtype == torch.bfloat16 and predictor.device == torch.device("cpu")


@pytest.mark.parametrize("dtype", ["bf16", torch.bfloat16, "bfloat16"])
def test_another_precision_is_the_same_model(place, pictures, dtype):
    texts = ["a red cat", "sun"]
    exact, rough = Predictor.from_pretrained(place), Predictor.from_pretrained(place, dtype=dtype)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.match(pictures, texts).itc, exact.match(pictures, texts).itc, rtol=0, atol=0.1)
    assert rough.embed(images=pictures).dtype == torch.float32
    assert not torch.equal(rough.match(pictures, texts).itc, exact.match(pictures, texts).itc)
    assert len(rough.caption(pictures)) == len(rough.caption(pictures, by="qformer")) == 5


@pytest.mark.parametrize(
    ("trained", "native", "dtype", "why"),
    [
        ("bfloat16", True, torch.bfloat16, ""),
        ("bfloat16", False, torch.float32, ": trained in bfloat16"),
        ("float32", True, torch.float32, ""),
    ],
)
def test_auto_is_the_precision_trained_in_where_the_device_has_it(
    copy, monkeypatch, caplog, trained, native, dtype, why
):
    update_provenance(copy / "stage1" / "bridge", {"precision": trained})
    monkeypatch.setattr(pretrained, "native_bf16", lambda _: native)
    with caplog.at_level(logging.INFO, logger="isthmus"):
        assert Predictor.from_pretrained(copy / "stage1").dtype == dtype
    name = str(dtype).removeprefix("torch.")
    said = [record.getMessage() for record in caplog.records if record.name == "isthmus.build.pretrained"]
    assert said == [f"computing in {name} on cpu{why}"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "`dtype` is 'int8'"),
        ({"dtype": torch.float16}, r"`dtype` is torch.float16; use auto, float32 or bfloat16"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"device": "toaster"}, "toaster"),
    ],
    ids=str,
)
def test_an_unknown_device_or_dtype_is_refused(place, options, message):
    with pytest.raises(ConfigError, match=message):
        Predictor.from_pretrained(place / "stage1", **options)


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, "auto"], ids=str)
def test_device_map_places_the_language_model(place, pictures, device_map):
    placed = Predictor.from_pretrained(place / "stage2", device_map=device_map)
    assert placed.caption(pictures) == Predictor.from_pretrained(place / "stage2").caption(pictures)


def test_a_model_that_is_not_in_memory_cannot_be_checked_and_is_refused(place):
    with pytest.raises(TowerError, match=r"device_map='meta' leaves a part of folder:.*llama out of memory"):
        Predictor.from_pretrained(place / "stage2", device_map="meta")


@pytest.mark.parametrize("device_map", ["nonsense", {"": "nonsense"}, {"": [0]}, {"": 1.5}], ids=str)
def test_a_device_map_that_names_no_device_is_told(place, device_map):
    with pytest.raises(ConfigError, match=r"llama' cannot be loaded with device_map=.*; give 'auto', a dev"):
        Predictor.from_pretrained(place / "stage2", device_map=device_map)


@pytest.mark.parametrize(
    ("options", "told"),
    [({"llm": "folder:/nowhere"}, "llm='folder:/nowhere'"), ({"device_map": "auto"}, "device_map='auto'")],
    ids=str,
)
def test_what_finds_no_language_model_is_refused(place, options, told):
    with pytest.raises(
        ConfigError, match=f"^{told} is about a language model, and .*stage1.* is of stage 1, which has"
    ):
        Predictor.from_pretrained(place / "stage1", **options)


def test_a_run_folder_moved_elsewhere_still_loads(copy, place, pictures):
    expected = Predictor.from_pretrained(place).caption(pictures)
    (copy / "stage1").rename(copy / "first")
    (copy / "stage2").rename(copy / "second")
    (copy / "first" / "run.json").write_text("{}")
    assert Predictor.from_pretrained(copy / "second", copy / "first").caption(pictures) == expected


def test_towers_that_moved_are_named_and_known_by_their_fingerprints(place, copy, pictures, tmp_path):
    for stage in (1, 2):
        folder = copy / f"stage{stage}" / "bridge"
        config = read_bridge(folder).provenance["config"]
        config["encoder"]["weights"] = f"folder:{tmp_path / 'gone'}"
        if stage == 2:
            config["llm"]["weights"] = f"folder:{tmp_path / 'away'}"
        update_provenance(folder, {"config": config})
    with pytest.raises(TowerError, match=r"encoder of .* is no longer at folder:.*gone; .* encoder='folder:PATH' or e"):
        Predictor.from_pretrained(copy)
    encoder, llm = f"folder:{place / 'clip'}", f"folder:{place / 'llama'}"
    with pytest.raises(TowerError, match=r"llm of .* is no longer at folder:.*away; .* llm='folder:PATH'"):
        Predictor.from_pretrained(copy, encoder=encoder)
    moved = Predictor.from_pretrained(copy, encoder=encoder, llm=llm)
    assert moved.caption(pictures) == Predictor.from_pretrained(place).caption(pictures)
    moved.save_pretrained(tmp_path / "saved")
    assert Predictor.from_pretrained(tmp_path / "saved").caption(pictures) == moved.caption(pictures)
    towers = read_bridge(tmp_path / "saved" / "stage2").provenance["towers"]
    assert (towers["encoder"]["address"], towers["llm"]["address"]) == (encoder, llm)


def test_another_tower_is_refused(place, tmp_path):
    clip, llama = tiny_clip_folder(tmp_path / "clip", seed=1), tiny_llama_folder(tmp_path / "llama", seed=1)
    with pytest.raises(CheckpointError, match=r"the encoder folder:.* is not the one this bridge was trained with"):
        Predictor.from_pretrained(place, encoder=f"folder:{clip}")
    with pytest.raises(CheckpointError, match=r"the llm folder:.* is not the one this bridge was trained with"):
        Predictor.from_pretrained(place, llm=f"folder:{llama}")
    with pytest.raises(TowerError, match="there is no such folder"):
        Predictor.from_pretrained(place, encoder="folder:/nowhere")
    with pytest.raises(ConfigError, match="is no address"):
        Predictor.from_pretrained(place, encoder=str(clip))


def test_folders_that_do_not_fit_together_are_refused(place, copy, tmp_path):
    with pytest.raises(CheckpointError, match=r"are both of stage 1; give one of each stage"):
        Predictor.from_pretrained(place / "stage1", copy / "stage1")
    shutil.rmtree(copy / "clip")
    tiny_clip_folder(copy / "clip", seed=1)
    save_stage(copy, 1)
    with pytest.raises(CheckpointError, match=r"stage2.* see pictures by different encoders"):
        Predictor.from_pretrained(copy / "stage1", place / "stage2")


def test_what_is_no_bridge_is_refused(place, copy, tmp_path):
    with pytest.raises(CheckpointError, match="there is no folder"):
        Predictor.from_pretrained(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"is no model folder: it lacks config\.json"):
        Predictor.from_pretrained(place / "pictures")
    update_provenance(copy / "stage1" / "bridge", {"config": {}})
    with pytest.raises(CheckpointError, match="does not say how it was trained"):
        Predictor.from_pretrained(copy / "stage1")
    config = read_bridge(copy / "stage2" / "bridge").provenance["config"]
    update_provenance(copy / "stage2" / "bridge", {"config": {**config, "llm": {}}})
    with pytest.raises(CheckpointError, match=r"has a config.llm that this isthmus does not know"):
        Predictor.from_pretrained(copy / "stage2")


def test_a_cache_of_another_machine_is_not_needed(copy, pictures):
    config = read_bridge(copy / "stage2" / "bridge").provenance["config"]
    config["llm"]["cache"] = "/proc/nowhere"
    update_provenance(copy / "stage2" / "bridge", {"config": config})
    assert Predictor.from_pretrained(copy / "stage2").caption(pictures)


def test_who_predicts_never_drops_whatever_was_trained_with(copy):
    config = read_bridge(copy / "stage2" / "bridge").provenance["config"]
    config["llm"]["dropout"] = True
    update_provenance(copy / "stage2" / "bridge", {"config": config})
    loaded = Predictor.from_pretrained(copy / "stage2")._pretrained
    assert not any(module.training for module in loaded.llm.train().modules())
    assert loaded.bridges[2].provenance["config"]["llm"]["dropout"] is True, "what it was trained with stays told"


@pytest.mark.parametrize("given", ["stage1", "stage2"])
def test_one_stage_is_saved_as_one_folder_that_answers_the_same(place, pictures, tmp_path, given):
    first = Predictor.from_pretrained(place / given)
    for _ in range(2):  # over an empty place, and over itself
        first.save_pretrained(tmp_path / "saved", licence="mit")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "complete", "tokenizer.json"} <= names
    again = Predictor.from_pretrained(tmp_path / "saved")
    assert again.caption(pictures) == first.caption(pictures)
    assert read_bridge(tmp_path / "saved").provenance["licence"] == "mit"
    front = yaml.safe_load((tmp_path / "saved" / "README.md").read_text().split("---")[1])
    assert front["license"] == "mit"


def test_both_stages_are_saved_as_two_folders_that_answer_the_same(place, pictures, tmp_path):
    both = Predictor.from_pretrained(place)
    both.save_pretrained(str(tmp_path / "saved"))
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["stage1", "stage2"]
    again = Predictor.from_pretrained(tmp_path / "saved")
    assert again.caption(pictures) == both.caption(pictures)
    assert torch.equal(again.match(pictures, "sun").score, both.match(pictures, "sun").score)


def test_nothing_is_saved_over_what_is_no_model(place, tmp_path):
    both, one = Predictor.from_pretrained(place), Predictor.from_pretrained(place / "stage1")
    (tmp_path / "stage2").mkdir()
    (tmp_path / "stage2" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists and is no model folder"):
        both.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["stage2"], "nothing is written by half"
    with pytest.raises(CheckpointError, match="exists and is no model folder"):
        one.save_pretrained(tmp_path)
    one.save_pretrained(tmp_path / "one")
    with pytest.raises(CheckpointError, match="holds a bridge of its own"):
        both.save_pretrained(tmp_path / "one")
    assert json.loads((tmp_path / "one" / "config.json").read_text())["provenance"]["stage"] == 1

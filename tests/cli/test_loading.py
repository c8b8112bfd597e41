"""What a command loads of folders that hold both stages: the bridge that it needs, and the towers of that one."""

import json
import re

import pytest
import torch
import typer
from safetensors import safe_open

from command_line import isthmus
from folders import tiny_stages
from isthmus import Predictor
from isthmus.build import pretrained
from isthmus.cli.app import app


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny_stages(tmp_path_factory.mktemp("place"))


@pytest.fixture
def built(monkeypatch):
    """Which towers were built, and which bridges were read, in their order."""
    built = []

    def note(name, what):
        work = getattr(pretrained, name)
        monkeypatch.setattr(pretrained, name, lambda *a, **k: built.append(what(*a)) or work(*a, **k))

    note("build_encoder", lambda *_: "encoder")
    note("build_llm", lambda *_: "llm")
    note("read_bridge", lambda folder: folder.parent.name)
    return built


@pytest.fixture
def command(place, capfd):
    def command(*arguments, models=("",)):
        given = [option for model in models for option in ("--model", place / model)]
        capfd.readouterr()
        return isthmus(*arguments, *given), *capfd.readouterr()

    return command


def test_an_address_of_a_language_model_needs_one(place, command, built):
    given = ("caption", place / "pictures" / "0.png", "--llm", "folder:/nowhere")
    code, out, err = command(*given, models=("stage1",))
    assert (code, out, built) == (2, "", []) and "isthmus: --llm folder:/nowhere is about a language model, and" in err
    assert command(*given, "--by", "qformer", models=("",))[0] == 0, "there is one, and it is not asked"


@pytest.mark.parametrize(
    ("name", "remedies"),
    [
        ("caption", "a smaller --batch-size, or --device cpu"),
        ("embed", "a smaller --batch-size, or --device cpu"),
        ("match", "fewer texts, or --device cpu"),
    ],
)
def test_too_little_memory_is_told_with_what_the_command_has_against_it(
    place, command, monkeypatch, tmp_path, name, remedies
):
    def full(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Predictor, name, full)
    more = {"match": ["a cat"], "embed": ["--output", tmp_path / "e.safetensors"]}.get(name, [])
    code, _, err = command(name, place / "pictures" / "0.png", *more)
    assert (code, err.splitlines()[-1]) == (2, f"isthmus: the device has too little memory; give {remedies}")
    options = {option for one in typer.main.get_command(app).commands[name].params for option in one.opts}
    assert set(re.findall(r"--[a-z-]+", remedies)) <= options


BOTH = [("",), ("stage1", "stage2"), ("stage2", "stage1")]


@pytest.mark.parametrize("models", BOTH, ids=str)
def test_match_loads_no_language_model(place, command, built, models):
    code, out, _ = command("match", place / "pictures" / "0.png", "a red cat", "sun", "--json", models=models)
    assert code == 0 and built == ["stage1", "encoder"]
    alone = Predictor.from_pretrained(place / "stage1").match([place / "pictures" / "0.png"], ["a red cat"])
    scores = {row["text"]: row["score"] for row in json.loads(out)["texts"]}
    assert scores["a red cat"] == pytest.approx(float(alone.score))


@pytest.mark.parametrize("models", BOTH, ids=str)
def test_embed_loads_no_language_model(place, command, built, tmp_path, models):
    code, *_ = command("embed", place / "pictures", "--output", tmp_path / "e.safetensors", models=models)
    assert code == 0 and built == ["stage1", "encoder"]
    with safe_open(tmp_path / "e.safetensors", "pt") as file:
        assert file.get_tensor("images").shape == (5, 4, 8)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["stage2", "encoder", "llm"]),
        (["--by", "llm"], ["stage2", "encoder", "llm"]),
        (["--by", "qformer"], ["stage1", "encoder"]),
    ],
    ids=str,
)
def test_caption_loads_the_one_who_writes(place, command, built, options, expected):
    code, out, _ = command("caption", place / "pictures" / "0.png", *options)
    assert code == 0 and built == expected
    by = "qformer" if "qformer" in options else "llm"
    assert out.rstrip("\n").partition("\t")[2] == Predictor.from_pretrained(place).caption(
        place / "pictures" / "0.png", by=by
    )


@pytest.mark.parametrize(
    ("line", "model", "wanted"),
    [
        (["match", "pictures/0.png", "sun"], "stage2", 1),
        (["embed", "pictures", "--output", "e.safetensors"], "stage2", 1),
        (["caption", "pictures", "--by", "qformer"], "stage2", 1),
        (["caption", "pictures", "--by", "llm"], "stage1", 2),
    ],
    ids=str,
)
def test_what_is_not_there_is_told_before_anything_is_loaded(place, command, built, monkeypatch, line, model, wanted):
    monkeypatch.chdir(place)
    code, out, err = command(*line, models=[model])
    assert (code, out, built) == (2, "", [])
    assert err.startswith("isthmus: ") and f"give the folder of stage {wanted} too" in err and err.count("\n") == 1

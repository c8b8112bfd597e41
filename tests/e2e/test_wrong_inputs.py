"""What a user can get wrong with the commands that use a trained bridge: one sentence, nothing lost."""

import errno
import json
import os
import shutil

import pytest

from command_line import isthmus
from isthmus.tasks import embeddings, output

pytestmark = pytest.mark.e2e
STAGE = {"1": "one", "2": "two"}


@pytest.fixture
def refused(capfd):
    """Run a command that must end with exit code 2 and one sentence; the sentence."""

    def refused(*arguments):
        capfd.readouterr()
        code = isthmus(*arguments)
        out, err = capfd.readouterr()
        told = [line for line in err.splitlines() if line.startswith("isthmus: ")]
        assert (code, out) == (2, "") and len(told) == 1 and err.endswith(told[0] + "\n"), err
        assert "Traceback" not in err
        return told[0]

    return refused


def picture(trained):
    return trained / "pictures" / "3.png"


def copied(trained, name):
    folder = trained / name
    shutil.copytree(trained / "one", folder, dirs_exist_ok=True)
    return folder


def truncated(trained):
    folder = copied(trained, "truncated")
    weights = folder / "bridge" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return folder


def without_marker(trained):
    folder = copied(trained, "unfinished")
    (folder / "bridge" / "complete").unlink()
    return folder


WRONG = {
    "no model": ("caption {picture}", "no model is named; give --model FOLDER"),
    "model that is no folder": ("caption {picture} --model /nowhere", "there is no folder /nowhere"),
    "model folder that is none": ("caption {picture} --model {pictures}", "is no model folder: it lacks config.json"),
    "two models of one stage": ("caption {picture} --model {1} --model {1}", "are both of stage 1"),
    "no such picture": ("caption /nowhere.png --model {1}", "/nowhere.png: there is no such file or folder"),
    "no such picture to match": ("match /nowhere.png cat --model {1}", "/nowhere.png: the picture cannot be read"),
    "a folder to match": ("match {pictures} cat --model {1}", "the picture cannot be read (Is a directory)"),
    "a picture that is none": ("caption {recipe} --model {1}", "this is no picture in one of the formats"),
    "an empty folder": ("caption {empty} --model {1}", "there is no picture in it (0 other files)"),
    "an empty prompt": ("caption {picture} --model {2} --prompt=", "--prompt is empty"),
    "a blank prompt": ("caption {picture} --model {2} --prompt=%20", "--prompt is empty"),
    "a prompt for the Q-Former": ("caption {picture} --model {1} --prompt a", "the Q-Former writes without a prompt"),
    "a prompt that is too long": ("caption {picture} --model {2} --prompt {long}", "256"),
    "an empty text": ("match {picture} cat %20 --model {1}", "text 1 is empty"),
    "a writer that is not there": ("caption {picture} --model {1} --by llm", "give the folder of stage 2 too"),
    "matching by stage 2": ("match {picture} cat --model {2}", "give the folder of stage 1 too"),
    "embedding by stage 2": (
        "embed {picture} --model {2} --output {empty}/e.safetensors",
        "give the folder of stage 1 too",
    ),
    "an unknown device": ("caption {picture} --model {1} --device tpu", "`device` is 'tpu'"),
    "an unknown precision": ("caption {picture} --model {1} --dtype int3", "int3"),
    "beams and a temperature": (
        "caption {picture} --model {2} --num-beams 2 --temperature 1",
        "beams are searched, not sampled",
    ),
    "no tokens": ("caption {picture} --model {2} --max-new-tokens 0", "max_new_tokens is 0"),
    "two outputs": ("caption {picture} --model {1} --sidecar --output {empty}/c", "are two places; give one of them"),
    "what to do without a place": ("caption {picture} --model {1} --existing append", "needs a place"),
    "an output below a file": ("caption {pictures} --model {1} --output {recipe}/c.jsonl", "cannot be written (Not a"),
    "an output that cannot be": ("caption {pictures} --model {1} --output /proc/no/c.jsonl", "cannot be written"),
    "an output of other things": (
        "caption {pictures} --model {1} --output {recipe}",
        "line 1: this is no caption of a picture, so the file is left as it is",
    ),
    "the picture as the output": (
        "caption {picture} --model {1} --output {picture} --existing overwrite",
        "line 1: this is no caption of a picture, so the file is left as it is",
    ),
    "embeddings below a file": (
        "embed {picture} --model {1} --output {recipe}/e",
        "cannot be written (Not a directory",
    ),
    "embeddings into a folder": ("embed {picture} --model {1} --output {pictures}", "is a folder; name a file"),
    "nothing to embed": ("embed --model {1} --output {empty}/e", "nothing is given to embed"),
    "no texts": ("embed --texts {blank} --model {1} --output {empty}/e", "holds no text; write one a line"),
    "texts that are none": ("embed --texts {picture} --model {1} --output {empty}/e", "line 1: the line is not UTF-8"),
    "texts that are not there": (
        "embed --texts /nowhere --model {1} --output {empty}/e",
        "/nowhere: there is no such file; give a file with a text",
    ),
    "features without a store": ("features {recipe} features.folder=null", "add features.folder=FOLDER"),
    "a store below a file": ("features {recipe} features.folder={recipe}/store", "cannot be written (Not a directory"),
    "no such recipe": ("features /nowhere.yaml", "no configuration file at /nowhere.yaml"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_input_is_one_sentence_and_exit_code_2(trained, refused, case, tmp_path):
    line, message = WRONG[case]
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank").write_text(" \n\n")
    before = {path: path.read_bytes() for path in (picture(trained), trained / "one.yaml")}
    places = {name: trained / folder for name, folder in STAGE.items()}
    places |= {"picture": picture(trained), "pictures": trained / "pictures", "recipe": trained / "one.yaml"}
    places |= {"empty": tmp_path / "empty", "blank": tmp_path / "blank", "long": "x" * 5000}
    arguments = []
    for part in line.split():
        for name, place in places.items():
            part = part.replace(f"{{{name}}}", str(place))
        arguments.append(part.replace("%20", " "))
    assert message in refused(*arguments)
    assert {path: path.read_bytes() for path in before} == before
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize(
    ("spoil", "message"), [(truncated, "model.safetensors is damaged"), (without_marker, "it lacks complete")]
)
def test_a_spoilt_model_folder_is_named(trained, refused, spoil, message):
    assert message in refused("caption", picture(trained), "--model", spoil(trained))


def test_a_text_of_5000_characters_is_cut_and_told(trained, capfd):
    capfd.readouterr()
    assert isthmus("match", picture(trained), "cat " * 1250, "cat " * 40, "--model", trained / "one", "--json") == 0
    out, err = capfd.readouterr()
    assert "2 texts were cut to the 32 tokens that the bridge reads" in " ".join(err.split())
    first, second = json.loads(out)["texts"]
    assert first["score"] == pytest.approx(second["score"])


def test_a_run_folder_that_moved_still_loads(trained, tmp_path, capfd):
    moved = shutil.copytree(trained / "two", tmp_path / "elsewhere" / "run")
    capfd.readouterr()
    assert isthmus("caption", picture(trained), "--model", moved) == 0
    said = capfd.readouterr().out
    assert isthmus("caption", picture(trained), "--model", trained / "two" / "bridge") == 0
    assert capfd.readouterr().out == said != ""


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_keeps_the_captions_before_and_the_run_goes_on(trained, refused, tmp_path, monkeypatch, capfd):
    path, calls, write_all = tmp_path / "captions.jsonl", [], output.write_all

    def full_at_the_third(file, content):
        calls.append(content)
        if len(calls) == 3:
            file.write(content[: len(content) // 2])
            full()
        write_all(file, content)

    command = ("caption", trained / "pictures", "--model", trained / "one", "--output", path, "--batch-size", 5)
    with monkeypatch.context() as disk:
        disk.setattr(output, "write_all", full_at_the_third)
        assert "cannot be written (No space left on device); what was written before is whole" in refused(*command)
    assert len(path.read_bytes().splitlines()) == 10 and path.read_bytes().endswith(b"}\n")
    assert isthmus(*command) == 0
    assert f"written to {path}: 14; done before: 10" in capfd.readouterr().err
    names = [json.loads(line)["file_name"] for line in path.read_text().splitlines()]
    assert names == sorted(path.name for path in (trained / "pictures").glob("*.png"))


def test_a_full_disk_leaves_no_half_embeddings(trained, refused, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings.shutil, "copyfileobj", full)
    command = ("embed", picture(trained), "--model", trained / "one", "--output", tmp_path / "e.safetensors")
    assert "e.safetensors cannot be written (No space left on device)" in refused(*command)
    assert not list(tmp_path.iterdir())

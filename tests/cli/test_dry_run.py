"""`isthmus caption --dry-run` looks at the model too: what a run would refuse is told, and nothing is loaded."""

import shutil

import pytest

from command_line import isthmus
from folders import tiny_stages
from isthmus.build import pretrained
from isthmus.checkpoints.native import read_bridge, update_provenance


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny_stages(tmp_path_factory.mktemp("place"))


@pytest.fixture
def copy(place, tmp_path):
    """The place anew, to be spoilt."""
    return shutil.copytree(place, tmp_path / "copy")


@pytest.fixture
def dry(monkeypatch, capfd, place):
    """A dry run with one of the models; the exit code, stdout and stderr."""
    for name in ("build_encoder", "build_llm", "read_bridge"):
        monkeypatch.setattr(pretrained, name, lambda *_, **__: pytest.fail("something was loaded"))

    def dry(*arguments):
        capfd.readouterr()
        return isthmus("caption", place / "pictures", "--dry-run", *arguments), *capfd.readouterr()

    return dry


NAMES = [f"{number}.png" for number in range(5)]


@pytest.mark.parametrize("model", ["", "stage1", "stage2", "stage2/bridge"])
def test_a_model_that_can_caption_is_looked_at_and_not_loaded(dry, place, model):
    code, out, err = dry("--model", place / model)
    assert (code, out.splitlines()) == (0, NAMES) and "nothing was written" in err


def test_without_a_model_only_pictures_are_looked_at(dry):
    code, out, _ = dry()
    assert (code, out.splitlines()) == (0, NAMES)


def refused(result):
    """The one sentence of a run that ended with the code of a wrong input."""
    code, out, err = result
    assert (code, out) == (2, "") and err.startswith("isthmus: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "nowhere"], "there is no folder"),
        (["--model", "pictures"], "is no model folder: it lacks config.json"),
        (["--model", "stage1", "--model", "stage1"], "are both of stage 1"),
        (["--model", "stage1", "--by", "llm"], "give the folder of stage 2 too"),
        (["--model", "stage2", "--by", "qformer"], "give the folder of stage 1 too"),
        (["--model", "stage1", "--prompt", "a"], "the Q-Former writes without a prompt"),
        (["--model", "stage2", "--encoder", "folder:/nowhere"], "there is no such folder at /nowhere"),
        (["--model", "stage2", "--llm", "nonsense"], "'nonsense' is no address"),
        (
            ["--model", "stage1", "--llm", "folder:/nowhere"],
            "--llm folder:/nowhere is about a language model, and stage1",
        ),
    ],
    ids=str,
)
def test_a_model_that_cannot_caption_is_one_sentence(dry, place, monkeypatch, options, message):
    monkeypatch.chdir(place)
    assert message in refused(dry(*options))


def test_a_spoilt_model_folder_is_named(dry, copy):
    weights = copy / "stage1" / "bridge" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert f"{weights} is damaged" in refused(dry("--model", copy / "stage1"))
    (copy / "stage2" / "bridge" / "complete").unlink()
    assert "it lacks complete" in refused(dry("--model", copy / "stage2"))


@pytest.mark.parametrize(
    ("name", "address", "message"),
    [
        (
            "encoder",
            "folder:/gone",
            "is no longer at folder:/gone; say where it is: --encoder folder:PATH or --encoder f",
        ),
        (
            "llm",
            "folder:/gone",
            "the llm of {} is no longer at folder:/gone; say where it is: --llm folder:PATH or --llm",
        ),
        ("llm", "package:no_such_package/x.gguf", "the package no_such_package is not installed"),
    ],
)
def test_a_tower_that_is_gone_is_told(dry, copy, name, address, message):
    folder = copy / "stage2" / "bridge"
    config = read_bridge(folder).provenance["config"]
    config[name]["weights"] = address
    update_provenance(folder, {"config": config})
    assert message.format(folder) in refused(dry("--model", copy / "stage2"))
    assert dry("--model", copy / "stage2", f"--{name}", "hub:some/model")[0] == 0, "the Hub is not asked"

"""What a run's folder holds already: new, stopped or done, and another run's bridge is refused."""

import json

import pytest
import torch

from bridges import tiny_bridge
from isthmus.build.finished import look_back
from isthmus.build.going_on import weights_sum
from isthmus.checkpoints.native import update_provenance, write_bridge
from isthmus.config.run import check
from isthmus.errors import CheckpointError, ConfigError
from isthmus.records import BridgeFile

CONTENT = {
    "stage": 2,
    "data": {"train": {"folder": "pictures"}},
    "encoder": {"kind": "timm", "name": "vit"},
    "llm": {"weights": "folder:llama"},
    "train": {"steps": 10, "batch_size": 4},
}


@pytest.fixture
def asked(tmp_path):
    def asked(**train):
        places = {"output": str(tmp_path / "two"), "init": {"from": str(tmp_path / "one")}}
        return check({**CONTENT, **places, "train": {**CONTENT["train"], **train}}, "here")

    return asked


def write(folder, provenance, *, fill=0.0):
    bridge = tiny_bridge()
    tensors = {name: torch.full_like(tensor, fill) for name, tensor in bridge.state_dict().items()}
    write_bridge(BridgeFile(bridge.sizes, tensors, provenance), folder)


@pytest.fixture
def made(tmp_path, asked):
    write(tmp_path / "one" / "bridge", {})
    origin = weights_sum(tmp_path / "one")
    write(tmp_path / "two" / "bridge", {"given": asked().given(), "origin": origin})
    (tmp_path / "two" / "run.json").write_text("{}")
    return tmp_path


def test_nothing_there_is_new(asked):
    assert look_back(asked()) == "new"


def test_the_run_that_is_asked_for_is_done_wherever_it_lies(made, asked):
    assert look_back(asked()) == "done"
    (made / "two").rename(made / "moved")
    (made / "one").rename(made / "first")
    moved = {"output": str(made / "moved"), "device": "cpu", "init": {"from": str(made / "first")}}
    assert look_back(check({**CONTENT, **moved}, "here")) == "done"
    update_provenance(made / "first" / "bridge", {"ranking": {"weight": 0.5}})  # beside the weights, which stay
    assert look_back(check({**CONTENT, **moved}, "here")) == "done"


def test_a_licence_that_is_stated_later_makes_no_other_run(made):
    places = {"output": str(made / "two"), "init": {"from": str(made / "one")}}
    towers = {name: {**CONTENT[name], "licence": "MIT"} for name in ("encoder", "llm")}
    assert look_back(check({**CONTENT, **places, **towers}, "here")) == "done"


def test_without_its_record_it_was_stopped(made, asked):
    (made / "two" / "run.json").unlink()
    assert look_back(asked()) == "stopped"


def test_with_overwrite_it_is_new(made, asked):
    assert look_back(asked().model_copy(update={"overwrite": True})) == "new"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 20}, "holds a run with `train.steps` 10, not 20"),
        ({"lr": 1e-3}, "holds a run with `train.lr` null, not 0.001"),
    ],
)
def test_another_run_s_folder_is_refused_by_key(made, asked, change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        look_back(asked(**change))
    assert "choose another `output`, or train over it with overwrite=true" in str(caught.value)


def test_another_start_is_refused_and_one_that_is_gone_is_not(made, asked):
    write(made / "one" / "bridge", {}, fill=1.0)
    with pytest.raises(ConfigError, match=r"another bridge in `init\.from` than is there now"):
        look_back(asked())
    (made / "one").rename(made / "gone")
    assert look_back(asked()) == "done"


def test_a_damaged_bridge_is_not_taken_for_done(made, asked):
    weights = made / "two" / "bridge" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is damaged"):
        look_back(asked())
    assert json.loads((made / "two" / "run.json").read_text()) == {}

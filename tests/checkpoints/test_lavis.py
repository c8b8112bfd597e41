"""LAVIS' `.pth` files: every layout is read, nothing in them is run, and what is in no table is named."""

import pickle

import pytest
import torch

from blip2_models import lavis_state
from bridges import tiny_bridge
from isthmus.build.bridge import load_bridge
from isthmus.checkpoints.lavis import read_lavis
from isthmus.errors import AbsentPartError, CheckpointError

WIDE = {"width": 128, "heads": 2, "vision_width": 6}
LAYOUTS = {
    "stage 1": ({}, None),
    "opt": ({"text": False, "shared_width": None, "language_width": 7}, "opt_proj"),
    "t5": ({"text": False, "shared_width": None, "language_width": 9}, "t5_proj"),
    "vicuna": ({"text": False, "shared_width": None, "language_width": 11}, "llm_proj"),
    "instruct": ({"lm_head": False, "shared_width": None, "language_width": 7}, "llm_proj"),
}


def saved(path, state):
    torch.save({"model": state, "epoch": 3}, path)
    return path


@pytest.mark.parametrize(("sizes", "projection"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_is_read_whole(sizes, projection, tmp_path):
    bridge = tiny_bridge(**WIDE, **sizes).float()
    file = read_lavis(saved(tmp_path / "x.pth", lavis_state(bridge, projection=projection)))
    assert load_bridge(file).state_dict().keys() == bridge.state_dict().keys()
    assert all(torch.equal(file.tensors[name], tensor) for name, tensor in bridge.state_dict().items())
    if bridge.sizes.text:
        assert file.sizes == bridge.sizes
    assert (file.sizes.patch_norm_eps, file.sizes.norm_eps, file.sizes.heads) == (1e-5, 1e-12, 2)


def test_temperature_and_lm_head_of_stage_1_are_kept(tmp_path):
    bridge = tiny_bridge(**WIDE).float()
    file = read_lavis(saved(tmp_path / "x.pth", lavis_state(bridge)))
    assert load_bridge(file).need_heads().known_temperature == pytest.approx(0.2)
    states = torch.randn(2, 128)
    assert torch.equal(load_bridge(file).qformer.predict(states), bridge.qformer.predict(states))


def test_a_stage_2_file_has_no_heads(tmp_path):
    bridge = tiny_bridge(**WIDE, **LAYOUTS["opt"][0]).float()
    loaded = load_bridge(read_lavis(saved(tmp_path / "x.pth", lavis_state(bridge))))
    with pytest.raises(AbsentPartError, match="no ITC and ITM heads"):
        loaded.need_heads()


class Payload:
    """A pickle that writes a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("old", [True, False])
def test_a_payload_is_refused_and_never_runs(tmp_path, protocol, old):
    trap, path = tmp_path / "ran", tmp_path / "x.pth"
    torch.save({"model": Payload(trap)}, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not old)
    with pytest.raises(CheckpointError, match="holds more than tensors, and what it asks for was not run"):
        read_lavis(path)
    assert not trap.exists()
    path.write_bytes(pickle.dumps(Payload(trap), protocol=protocol))
    with pytest.raises(CheckpointError):
        read_lavis(path)
    assert not trap.exists()


def without(state, key):
    return {name: tensor for name, tensor in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {**s, "visual_encoder.cls_token": torch.zeros(1)}, r"no table knows: visual_encoder\.cls_token"),
        (lambda s: {**s, "lora_A": torch.zeros(1)}, "no table knows: lora_A"),
        (lambda s: without(s, "ln_vision.bias"), r"lacks ln_vision\.bias"),
        (lambda s: without(s, "query_tokens"), "lacks query_tokens"),
        (lambda s: without(s, "Qformer.bert.encoder.layer.1.output_query.dense.bias"), r"lacks .*layer\.1\.output_q"),
        (
            lambda s: {**s, "Qformer.cls.predictions.decoder.weight": torch.zeros(19, 128)},
            r"decoder\.weight apart from .*word_embeddings\.weight",
        ),
        (lambda s: {**s, "vision_proj.weight": torch.zeros(5, 64)}, r"heads\.image\.weight \(5, 64\)"),
    ],
)
def test_keys_and_shapes_that_do_not_fit_are_named(tmp_path, change, message):
    path = saved(tmp_path / "x.pth", change(lavis_state(tiny_bridge(**WIDE).float())))
    with pytest.raises(CheckpointError, match=message):
        load_bridge(read_lavis(path))


def test_a_flipped_bit_and_a_number_that_is_none_are_found(tmp_path):
    state = lavis_state(tiny_bridge(**WIDE).float())
    path = saved(tmp_path / "x.pth", state)
    content = bytearray(path.read_bytes())
    place = content.find(state["query_tokens"].numpy().tobytes())
    assert place > 0
    content[place + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pth is damaged: the sum of .*data.* in it is another"):
        read_lavis(path)
    state["ln_vision.bias"][0] = float("inf")
    with pytest.raises(CheckpointError, match=r"ln_vision\.bias holds values that are not finite"):
        read_lavis(saved(path, state))


def test_what_is_no_file_of_weights_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="there is no file"):
        read_lavis(tmp_path / "none.pth")
    path = saved(tmp_path / "x.pth", lavis_state(tiny_bridge(**WIDE).float()))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"damaged or no \.pth file|more than tensors"):
        read_lavis(path)
    torch.save([torch.zeros(2)], path)
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_lavis(path)

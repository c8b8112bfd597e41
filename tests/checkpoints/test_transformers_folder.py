"""Folders of transformers: read into a bridge, written from one, bit for bit; what does not fit is named."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Blip2QFormerModel

from blip2_models import QFORMER as QFORMER_SIZES
from blip2_models import conditional, instruct, retrieval
from bridges import tiny_bridge
from isthmus.build.bridge import load_bridge
from isthmus.checkpoints.keymap import CONDITIONAL, INSTRUCT, QFORMER, RETRIEVAL
from isthmus.checkpoints.rest import REST, write_rest
from isthmus.checkpoints.transformers import open_transformers, read_transformers, to_transformers
from isthmus.errors import AbsentPartError, CheckpointError
from isthmus.records import BridgeFile

MODELS = {
    "opt": (conditional, CONDITIONAL),
    "t5": (lambda: conditional("t5"), CONDITIONAL),
    "retrieval": (retrieval, RETRIEVAL),
    "instruct": (instruct, INSTRUCT),
}


@pytest.fixture(scope="module", params=MODELS)
def saved(request, tmp_path_factory):
    make, table = MODELS[request.param]
    folder, model = tmp_path_factory.mktemp(request.param), make()
    model.save_pretrained(folder)
    return folder, model, table


def opened(folder):
    return open_transformers(folder, AutoConfig.from_pretrained)


def read(folder):
    return read_transformers(opened(folder))


@pytest.fixture
def folder(tmp_path):
    conditional().save_pretrained(tmp_path)
    return tmp_path


def test_every_tensor_comes_over_and_goes_back_bit_for_bit(saved):
    folder, model, table = saved
    file, state = read(folder), model.state_dict()
    load_bridge(file)  # strict: names and shapes
    back, lost = to_transformers(file, table)
    assert not lost
    assert all(torch.equal(tensor, state[key]) for key, tensor in back.items())
    rest = {key for key in state if key not in back}
    assert all(key.startswith(("vision_model.", "language_model.")) for key in rest)
    assert "vision_model.post_layernorm.weight" in back


def test_sizes_are_those_of_the_config(saved):
    folder, model, table = saved
    sizes = opened(folder).sizes
    assert (sizes.width, sizes.vision_width, sizes.queries, sizes.vocabulary, sizes.positions) == (
        16,
        12,
        4,
        QFORMER_SIZES["vocab_size"],
        20,
    )
    assert (sizes.norm_eps, sizes.patch_norm_eps) == (1e-12, model.config.vision_config.layer_norm_eps)
    assert sizes.text == (table is not CONDITIONAL)
    assert (sizes.lm_head, sizes.temperature) == (False, False)
    assert sizes.shared_width == (6 if table is RETRIEVAL else None)
    assert sizes.language_width == (None if table is RETRIEVAL else 16)


def test_weights_in_half_precision_are_read_in_fp32(tmp_path):
    model = conditional().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    file = read(tmp_path)
    assert {tensor.dtype for tensor in file.tensors.values()} == {torch.float32}
    assert torch.equal(file.tensors["qformer.queries"], model.query_tokens[0].float())


def test_shards_are_read_one_by_one(tmp_path):
    model = conditional()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(read(tmp_path).tensors["projection.weight"], model.language_projection.weight)
    next(iter(sorted(tmp_path.glob("*.safetensors")))).unlink()
    with pytest.raises(CheckpointError, match=r"lacks model-00001-of-"):
        read(tmp_path)


def test_what_the_layout_lacks_is_absent_and_refused_by_name(tmp_path):
    retrieval().save_pretrained(tmp_path)
    bridge = load_bridge(read(tmp_path))
    assert not any("head.bias" in name or "temperature" in name for name in bridge.state_dict())
    with pytest.raises(AbsentPartError, match=r"no LM head.*init\.lm_head"):
        bridge.qformer.predict(torch.zeros(1, 16))
    with pytest.raises(AbsentPartError, match=r"no temperature.*init\.temperature"):
        bridge.need_heads().need_temperature()


def test_the_q_former_alone_with_the_rest_beside_it(tmp_path):
    bridge = tiny_bridge().float()
    file = BridgeFile(bridge.sizes, dict(bridge.state_dict()), {})
    tensors, lost = to_transformers(file, QFORMER)
    config = {**QFORMER_SIZES, "hidden_size": 8, "encoder_hidden_size": 6, "intermediate_size": 12}
    model = Blip2QFormerModel(Blip2QFormerModel.config_class(**config, use_qformer_text_input=True))
    model.load_state_dict(tensors)
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"its queries and its LayerNorm on the patches are absent, and {REST}"):
        read(tmp_path)
    write_rest(file.sizes, {name: file.tensors[name] for name in lost}, tmp_path)
    again = read(tmp_path)
    assert again.sizes == file.sizes and again.tensors.keys() == file.tensors.keys()
    assert all(torch.equal(again.tensors[name], file.tensors[name]) for name in file.tensors)
    (tmp_path / REST).write_bytes((tmp_path / REST).read_bytes()[:50])
    with pytest.raises(CheckpointError, match=f"{REST} is no readable safetensors file"):
        read(tmp_path)


def put(folder, change):
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(auto_map={"AutoModel": "x.Y"}), r"names code to run \(auto_map in the config\)"),
        (lambda c: c["text_config"].update(auto_map={}), r"names code to run \(auto_map in text_config\)"),
        (lambda c: c.update(architectures=["BertModel"]), r"is of \['BertModel'\]; known are Blip2ForConditional"),
        (lambda c: c["qformer_config"].update(hidden_act="relu"), "'relu'; ours computes 'gelu' only"),
        (lambda c: c.update(num_query_tokens=5), r"qformer\.queries \(4, 16\)"),
        (lambda c: c["qformer_config"].update(hidden_size=18), r"\(4, 16\)"),
        (lambda c: c["qformer_config"].update(num_hidden_layers=2), r"no table knows: qformer\.encoder\.layer\.2\."),
        (lambda c: c["qformer_config"].update(num_hidden_layers=4), r"lacks qformer\.encoder\.layer\.3\."),
    ],
)
def test_a_config_that_is_foreign_or_does_not_fit_is_refused_by_key_and_shape(folder, change, message):
    put(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_bridge(read(folder))


def test_damaged_and_missing_files_are_named(folder):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is no readable safetensors file"):
        read(folder)
    weights.write_bytes(bytes([whole[0] ^ 0xFF]) + whole[1:])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is no readable safetensors file"):
        read(folder)
    tensors = load_file_of(whole, folder)
    tensors["language_projection.bias"][3] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"language_projection\.bias holds values that are not finite"):
        read(folder)
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"lacks model\.safetensors; pytorch_model\.bin is a pickle"):
        read(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        opened(folder)


def load_file_of(content, folder):
    (folder / "model.safetensors").write_bytes(content)
    return load_file(folder / "model.safetensors")

"""What `convert` loads of the towers."""

import pytest
import torch

from blip2_models import conditional, save_whole
from isthmus.build import imported
from isthmus.build.imported import Towers, convert_in
from isthmus.build.precision import choose_compute
from isthmus.build.towers import build_encoder, build_llm
from isthmus.build.workshop import identify
from isthmus.config.model import EncoderConfig, LanguageConfig
from isthmus.language.prompts import Prompt


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_a_fingerprint_is_the_same_in_whatever_precision_a_tower_is_loaded(kind, stored, tmp_path):
    model = conditional(kind)
    with torch.no_grad():
        model.get_input_embeddings().weight[0] = 2.0**-24  # the least that fp16 holds
        model.get_input_embeddings().weight[1] = 1 + 2.0**-8  # half way between two numbers of bf16
    address = f"folder:{save_whole(model.to(stored), tmp_path, kind=kind)}"
    found = []
    for precision in ("fp32", "bf16"):
        compute = choose_compute("cpu", precision)
        llm = build_llm(LanguageConfig(weights=address), Prompt(), compute)
        encoder = build_encoder(EncoderConfig(kind="transformers", weights=address), compute)
        assert next(llm.parameters()).dtype == next(encoder.parameters()).dtype == compute.dtype
        found.append((identify(llm), identify(encoder)))
    assert found[0] == found[1]


def test_convert_loads_its_towers_in_bf16_and_says_fp32_of_the_bridge(tmp_path, monkeypatch):
    save_whole(conditional(), tmp_path / "theirs")
    loaded = []

    def looked_at(model):
        loaded.append({parameter.dtype for parameter in model.parameters()})
        return identify(model)

    monkeypatch.setattr(imported, "identify", looked_at)
    file = convert_in(str(tmp_path / "theirs"), tmp_path / "ours", Towers())
    assert loaded == [{torch.bfloat16}] * 2
    assert file.provenance["precision"] == "float32"
    assert {tensor.dtype for tensor in file.tensors.values()} == {torch.float32}

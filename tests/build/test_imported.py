"""What `convert` loads of the towers, what it refuses, and the switches that it sets for LAVIS' files."""

import json
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from blip2_models import conditional, instruct, lavis_state, retrieval, save_whole
from bridges import tiny_bridge
from fake_encoders import tiny_vit_folder
from fakes import tiny_bert_folder, tiny_clip_folder, tiny_llama_folder, tiny_t5_folder
from isthmus import Predictor
from isthmus.build import imported
from isthmus.build.exported import export_model
from isthmus.build.going_on import read_start
from isthmus.build.imported import Towers, convert_in
from isthmus.build.precision import choose_compute
from isthmus.build.pretrained import Wishes, load_pretrained
from isthmus.build.towers import build_encoder, build_llm
from isthmus.build.workshop import identify, make_tower
from isthmus.config.model import EncoderConfig, LanguageConfig
from isthmus.config.run import InitConfig
from isthmus.errors import CheckpointError, ConfigError
from isthmus.language.prompts import Prompt

KINDS = {
    "opt": (conditional, "opt"),
    "t5": (lambda: conditional("t5"), "t5"),
    "retrieval": (retrieval, "opt"),
    "instruct": (instruct, "opt"),
    "instruct t5": (lambda: instruct("t5"), "t5"),
}


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


@pytest.fixture(scope="module")
def lavis(tmp_path_factory):
    """Files of LAVIS by projection (None: stage 1; `instructed`), and the towers that they are converted with."""
    root = tmp_path_factory.mktemp("lavis")
    bert = tiny_bert_folder(root / "bert")
    words = json.loads((bert / "config.json").read_text())["vocab_size"] + 1
    clip, llama, t5 = tiny_clip_folder(root / "clip"), tiny_llama_folder(root / "llama"), tiny_t5_folder(root / "t5")
    sizes = {"width": 128, "heads": 2, "vision_width": 16, "vocabulary": words}
    later = {**sizes, "shared_width": None, "language_width": 16, "lm_head": False, "temperature": False}
    files = {
        "stage1": (lavis_state(tiny_bridge(**sizes).float()), None),
        **{
            name: (lavis_state(tiny_bridge(**{**later, "text": False}).float(), projection=name), llm)
            for name, llm in (("opt_proj", llama), ("llm_proj", llama), ("t5_proj", t5))
        },
        **{
            f"instructed {name}": (lavis_state(tiny_bridge(**later).float(), projection=name), llm)
            for name, llm in (("llm_proj", llama), ("t5_proj", t5))
        },
    }

    def convert(name, output, **towers):
        state, llm = files[name]
        path = output.parent / f"{name}.pth"
        torch.save({"model": state}, path)
        reads = name == "stage1" or name.startswith("instructed")
        given = {
            "encoder": f"folder:{clip}",
            "hidden_layer": -2,
            "llm": None if llm is None else f"folder:{llm}",
            "tokenizer": f"folder:{bert}" if reads else None,
            **towers,
        }
        return convert_in(str(path), output, Towers(**given))

    return convert


def test_pictures_of_lavis_are_squashed_where_the_encoder_would_cut(lavis, tmp_path):
    file = lavis("stage1", tmp_path / "ours")
    assert file.provenance["config"]["encoder"]["squash"] and file.provenance["towers"]["encoder"]["squash"]
    ours, address = Predictor.from_pretrained(tmp_path / "ours", device="cpu"), file.provenance["towers"]["encoder"]
    wide = Image.linear_gradient("L").rotate(90).resize((80, 32)).convert("RGB")
    square = wide.resize((32, 32), Image.Resampling.BICUBIC)
    assert torch.allclose(ours.encode([wide]).patches, ours.encode([square]).patches, atol=1e-5)
    config = EncoderConfig(kind="transformers", weights=address["address"], hidden_layer=-2)
    cut = make_tower(build_encoder(config, choose_compute("cpu", "fp32")))
    init = InitConfig.model_validate({"from": str(tmp_path / "ours")})
    with pytest.raises(CheckpointError, match=r"trained with encoder\.squash=True of .*, not None; give the same"):
        read_start(init, cut)
    config = config.model_copy(update={"squash": True})
    read_start(init, make_tower(build_encoder(config, choose_compute("cpu", "fp32"))))
    own = lavis("stage1", tmp_path / "eye", encoder=f"folder:{tiny_vit_folder(tmp_path / 'vit')}", hidden_layer=None)
    assert own.provenance["config"]["encoder"]["squash"] and own.provenance["towers"]["encoder"]["squash"] is None


def test_vicuna_s_text_begins_with_the_token_that_lavis_gives_it_for_bos(lavis, tmp_path):
    for name in ("llm_proj", "opt_proj", "t5_proj"):
        file = lavis(name, tmp_path / name)
        own = "</s>" if name == "llm_proj" else None
        assert file.provenance["prompt"]["bos_token"] == own
        assert file.provenance["config"]["llm"]["prompt"]["bos_token"] == own
    pretrained = load_pretrained([tmp_path / "llm_proj"], Wishes(device="cpu", dtype="float32"))
    assert pretrained.llm.tokenizer.bos_token == "<s>" and pretrained.llm.prompt.bos_token == "</s>"
    without = tiny_t5_folder(tmp_path / "without")
    words = json.loads((without / "tokenizer.json").read_text().replace("</s>", "<end>"))
    (without / "tokenizer.json").write_text(json.dumps(words))
    (without / "tokenizer_config.json").write_text(
        (without / "tokenizer_config.json").read_text().replace("</s>", "<end>")
    )
    with pytest.raises(ConfigError, match="has no token '</s>', which the prompt's `bos_token` names"):
        lavis("llm_proj", tmp_path / "refused", llm=f"folder:{without}")
    assert not (tmp_path / "refused").exists()


def test_instructions_of_lavis_are_cut_on_the_left_and_captions_on_the_right(lavis, tmp_path):
    words = "a red cat dog " * 20
    for name in ("stage1", "instructed llm_proj", "instructed t5_proj"):
        place = tmp_path / name.replace(" ", "-")
        lavis(name, place)
        (loaded,) = load_pretrained([place], Wishes(device="cpu", dtype="float32")).bridges.values()
        tokenizer = loaded.need_tokenizer()
        assert tokenizer.max_tokens < 50  # the positions of a tiny bridge
        whole = tokenizer.inner([words]).input_ids[0]
        ids = tokenizer([words]).ids[0].tolist()
        kept = tokenizer.max_tokens - 1
        assert ids == ([*whole[:kept], whole[-1]] if name == "stage1" else [whole[0], *whole[-kept:]])


@pytest.mark.parametrize("side", ["left", "right"])
def test_instructions_of_transformers_are_cut_as_their_tokenizer_says_and_leave_so(side, tmp_path):
    save_whole(instruct(), tmp_path / "theirs")
    words = AutoTokenizer.from_pretrained(tmp_path / "theirs/qformer_tokenizer", truncation_side=side)
    words.save_pretrained(tmp_path / "theirs/qformer_tokenizer")
    convert_in(str(tmp_path / "theirs"), tmp_path / "ours", Towers())
    pretrained = load_pretrained([tmp_path / "ours"], Wishes(device="cpu", dtype="float32"))
    tokenizer, text = pretrained.bridges[2].need_tokenizer(), "a red cat dog " * 20
    wanted = words([text], truncation=True, max_length=tokenizer.max_tokens).input_ids
    assert tokenizer([text]).ids.tolist() == wanted
    export_model(pretrained, 2, tmp_path / "back")
    back = AutoTokenizer.from_pretrained(tmp_path / "back/qformer_tokenizer")
    assert back([text], truncation=True, max_length=tokenizer.max_tokens).input_ids == wanted


@pytest.fixture(params=KINDS)
def published(request, tmp_path):
    """A folder of transformers, and a way to change what is in its weights."""
    make, kind = KINDS[request.param]
    folder = save_whole(make(), tmp_path / "theirs", kind=kind)

    def put(**tensors):
        state = load_file(folder / "model.safetensors")
        save_file({**state, **tensors}, folder / "model.safetensors", metadata={"format": "pt"})

    return folder, request.param, put


@pytest.mark.parametrize(
    "key",
    [
        "vision_model.encoder.layers.0.foo.weight",
        "vision_model.encoder.layers.2.mlp.fc1.weight",
        "language_model.model.foo.weight",
        "language_model.decoder.block.0.foo.weight",
    ],
)
def test_a_key_that_begins_like_a_tower_s_and_is_none_of_it_is_refused_by_name(published, key, tmp_path):
    folder, kind, put = published
    put(**{key: torch.zeros(2)})
    table = "no table" if kind == "retrieval" and key.startswith("language") else "no tower"
    with pytest.raises(CheckpointError, match=rf"theirs has keys that {table} knows: {re.escape(key)}, read as"):
        convert_in(str(folder), tmp_path / "ours", Towers())
    assert not (tmp_path / "ours").exists()


def test_what_is_stored_twice_or_no_longer_stored_is_no_foreign_key(published, tmp_path):
    folder, kind, put = published
    plain = convert_in(str(folder), tmp_path / "plain", Towers())
    state = load_file(folder / "model.safetensors")
    if kind.endswith("t5"):
        copied, source = ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"), "language_model.shared.weight"
        old = "language_model.decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        put(**{old: torch.zeros(32, 4)})
    elif kind != "retrieval":
        copied, source = ("lm_head",), "language_model.model.decoder.embed_tokens.weight"
    else:
        copied, source = (), "query_tokens"
    put(**{f"language_model.{name}.weight": state[source].clone() for name in copied})
    ours = convert_in(str(folder), tmp_path / "ours", Towers())
    assert ours.tensors.keys() == plain.tensors.keys()
    assert all(torch.equal(tensor, plain.tensors[name]) for name, tensor in ours.tensors.items())
    assert ours.provenance["towers"] == plain.provenance["towers"]


def test_a_config_of_which_transformers_makes_no_model_is_one_sentence(tmp_path):
    config = json.loads((save_whole(conditional(), tmp_path / "theirs") / "config.json").read_text())
    config["vision_config"]["num_attention_heads"] = 5
    (tmp_path / "theirs/config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=r"theirs makes no Blip2ForConditionalGeneration in transformers \(.*5.*\)"
    ):
        convert_in(str(tmp_path / "theirs"), tmp_path / "ours", Towers())

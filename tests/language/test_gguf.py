"""GGUF files unpacked once into plain folders."""

import pytest
import torch
from transformers import LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, T5ForConditionalGeneration
from transformers.utils import logging

from fakes import tiny_llama_folder, tiny_t5_folder
from gguf_files import tiny_gguf, tiny_t5_gguf
from isthmus.errors import TowerError
from isthmus.language.gguf import gguf_to_folder
from isthmus.language.load import is_encoder_decoder, load_language_model

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def test_gguf_becomes_a_plain_folder_once(tmp_path):
    model = LlamaForCausalLM.from_pretrained(tiny_llama_folder(tmp_path / "plain"))
    file = tiny_gguf(tmp_path / "tiny.gguf", model)
    folder = gguf_to_folder(file, tmp_path / "cache")
    unpacked, tokenizer = load_language_model(folder)
    ids = torch.tensor([[1, *tokenizer("a cat", add_special_tokens=False).input_ids]])
    assert unpacked.lm_head.weight is unpacked.model.embed_tokens.weight
    assert torch.allclose(unpacked(ids).logits, model(ids).logits, atol=1e-5)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert gguf_to_folder(file, tmp_path / "cache") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    half = gguf_to_folder(file, tmp_path / "cache", dtype=torch.bfloat16)
    assert {child.name for child in (tmp_path / "cache").iterdir()} == {folder.name, half.name}


def test_another_architecture(tmp_path):
    torch.manual_seed(0)
    marks = {"vocab_size": 259, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, **marks, num_key_value_heads=2, tie_word_embeddings=True))
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.q_proj.bias)
    folder = gguf_to_folder(tiny_gguf(tmp_path / "tiny.gguf", model), tmp_path / "cache")
    unpacked, _ = load_language_model(folder)
    ids = torch.tensor([[1, 5, 9, 30]])
    assert unpacked.config.model_type == "qwen2"
    assert torch.allclose(unpacked(ids).logits, model.eval()(ids).logits, atol=1e-5)


def test_an_encoder_decoder(tmp_path):
    model = T5ForConditionalGeneration.from_pretrained(tiny_t5_folder(tmp_path / "plain"))
    folder = gguf_to_folder(tiny_t5_gguf(tmp_path / "tiny.gguf", model), tmp_path / "cache")
    unpacked, tokenizer = load_language_model(folder)
    read, asked = torch.tensor([[5, 6, 7, 2]]), torch.tensor([[0, 8, 9]])
    found, wanted = (each(input_ids=read, decoder_input_ids=asked).logits for each in (unpacked.eval(), model.eval()))
    assert is_encoder_decoder(folder) and tokenizer("a").input_ids == [258, 2]
    assert torch.allclose(found, wanted, atol=1e-5)


def test_unpacking_draws_no_bar(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(logging, "_tqdm_active", True)
    model = LlamaForCausalLM.from_pretrained(tiny_llama_folder(tmp_path / "plain"))
    file = tiny_gguf(tmp_path / "tiny.gguf", model)
    capfd.readouterr()
    gguf_to_folder(file, tmp_path / "cache")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("harm", ["cut", "gone", "no list"])
def test_a_folder_that_was_cut_short_is_made_again(tmp_path, harm):
    model = LlamaForCausalLM.from_pretrained(tiny_llama_folder(tmp_path / "plain"))
    file = tiny_gguf(tmp_path / "tiny.gguf", model)
    folder = gguf_to_folder(file, tmp_path / "cache")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    if harm == "cut":
        weights.write_bytes(whole[:100])
    elif harm == "gone":
        (folder / "tokenizer.json").unlink()
    else:
        (folder / "unpacked.json").write_text("{")
    assert gguf_to_folder(file, tmp_path / "cache") == folder
    assert weights.read_bytes() == whole and (folder / "tokenizer.json").is_file()
    assert [child.name for child in (tmp_path / "cache").iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(b"GGUF, but not really"), ""),
        (lambda path: path.write_bytes(b""), ""),
        (lambda path: path.write_bytes(path.read_bytes()[:-5000]), ""),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"llama", b"lemur")), "lemur"),
    ],
    ids=["no gguf", "empty", "cut short", "unknown architecture"],
)
def test_a_gguf_that_cannot_be_read_is_one_sentence_and_leaves_nothing_behind(tmp_path, spoil, reason):
    file = tiny_gguf(tmp_path / "tiny.gguf", LlamaForCausalLM.from_pretrained(tiny_llama_folder(tmp_path / "plain")))
    spoil(file)
    with pytest.raises(TowerError, match=f"cannot be read as a language model .*{reason}") as raised:
        gguf_to_folder(file, tmp_path / "cache")
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "cache").iterdir())


def test_no_file_is_one_sentence(tmp_path):
    with pytest.raises(TowerError, match="does not exist"):
        gguf_to_folder(tmp_path / "x.gguf", tmp_path)

"""GGUF files unpacked once into plain folders."""

import gguf
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaForCausalLM
from transformers.utils import logging

from fakes import tiny_llama_folder
from isthmus.errors import TowerError
from isthmus.language.gguf import gguf_to_folder
from isthmus.language.load import load_causal_lm

GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
}


def tiny_gguf(path, model):
    """Write a tiny Llama as llama.cpp does: other names, queries and keys in interleaved rotary order."""
    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    tokens = ["<pad>", "<s>", "</s>", *sorted(ByteLevel.alphabet())[:-1], "ab"]
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for part, count in heads.items():
            if part in name:
                tensor = tensor.reshape(count, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        for ours, theirs in GGUF_NAMES.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_becomes_a_plain_folder_once(tmp_path):
    model = LlamaForCausalLM.from_pretrained(tiny_llama_folder(tmp_path / "plain"))
    file = tiny_gguf(tmp_path / "tiny.gguf", model)
    folder = gguf_to_folder(file, tmp_path / "cache")
    unpacked, tokenizer = load_causal_lm(folder)
    ids = torch.tensor([[1, *tokenizer("a cat", add_special_tokens=False).input_ids]])
    assert unpacked.lm_head.weight is unpacked.model.embed_tokens.weight
    assert torch.allclose(unpacked(ids).logits, model(ids).logits, atol=1e-5)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert gguf_to_folder(file, tmp_path / "cache") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    half = gguf_to_folder(file, tmp_path / "cache", dtype=torch.bfloat16)
    assert {child.name for child in (tmp_path / "cache").iterdir()} == {folder.name, half.name}


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

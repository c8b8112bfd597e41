"""Loading by folder, and a GGUF file unpacked once into one."""

import gguf
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaForCausalLM

from fakes import tiny_bert_folder, tiny_llama_folder
from isthmus.errors import TowerError
from isthmus.fingerprint import module_fingerprint
from isthmus.language.decoder_only import DecoderOnlyLLM
from isthmus.language.load import gguf_to_folder, load_causal_lm
from isthmus.language.prompts import Prompt

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


def test_a_folder_is_loaded_as_it_was_saved(tmp_path):
    folder = tiny_llama_folder(tmp_path)
    model, tokenizer = load_causal_lm(folder, attn_implementation="eager")
    assert model.config._attn_implementation == "eager"
    assert module_fingerprint(model) == module_fingerprint(LlamaForCausalLM.from_pretrained(folder))
    tower = DecoderOnlyLLM(model, tokenizer, Prompt(), address=f"folder:{folder}")
    assert tower.width == 16
    assert load_causal_lm(folder, dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_what_is_missing_is_one_sentence(tmp_path):
    for name in (tmp_path / "nowhere", "no-such-owner/no-such-model"):
        with pytest.raises(TowerError, match="cannot be loaded"):
            load_causal_lm(name)
    with pytest.raises(TowerError, match="has no weights for 'cls"):
        load_causal_lm(tiny_bert_folder(tmp_path / "bert"))
    with pytest.raises(TowerError, match="does not exist"):
        gguf_to_folder(tmp_path / "x.gguf", tmp_path)


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


def test_a_broken_gguf_leaves_nothing_behind(tmp_path):
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF, but not really")
    with pytest.raises(TowerError, match="cannot be read"):
        gguf_to_folder(file, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())

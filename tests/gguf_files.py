"""Tiny models as GGUF files."""

import gguf
from tokenizers.pre_tokenizers import ByteLevel

TIED = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def finish(writer, model, arch, reorder=lambda name, tensor: tensor):
    """Write a model's tensors under the names that llama.cpp gives them, and close the file."""
    names = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name not in TIED:
            writer.add_tensor(names.get_name(name, (".weight", ".bias")), reorder(name, tensor).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tiny_gguf(path, model):
    """Write a tiny Llama or Qwen2 as llama.cpp does: Llama's queries and keys in interleaved rotary order."""
    config = model.config
    writer = gguf.GGUFWriter(str(path), config.model_type)
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
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}

    def interleaved(name, tensor):
        for part, count in heads.items():
            if part in name:
                return tensor.reshape(count, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        return tensor

    if config.model_type == "llama":
        finish(writer, model, gguf.MODEL_ARCH.LLAMA, interleaved)
    else:
        finish(writer, model, gguf.MODEL_ARCH.QWEN2)
    return path


def tiny_t5_gguf(path, model):
    """Write a tiny T5 as llama.cpp does."""
    config = model.config
    writer = gguf.GGUFWriter(str(path), "t5")
    writer.add_block_count(config.num_layers)
    writer.add_context_length(64)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.num_heads)
    writer.add_key_length(config.d_kv)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_relative_attn_buckets_count(config.relative_attention_num_buckets)
    writer.add_decoder_start_token_id(0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("t5")
    tokens = ["<pad>", "<s>", "</s>", "<unk>", *(f"t{number}" for number in range(config.vocab_size - 5)), "\u2581a"]
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(place) for place in range(len(tokens))])
    writer.add_token_types([3, 3, 3, 2] + [1] * (len(tokens) - 4))
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(3)
    finish(writer, model, gguf.MODEL_ARCH.T5)
    return path

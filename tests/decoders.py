"""Tiny decoder-only towers of four families, and soft prompts for them."""

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from fakes import byte_tokenizer
from isthmus.language.decoder_only import DecoderOnlyLLM
from isthmus.language.prompts import Prompt

SIZES = {"vocab_size": 260, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
ROTARY = {**SIZES, "intermediate_size": 32, "num_key_value_heads": 2, "initializer_range": 0.3}
MARKS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**ROTARY, **MARKS)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**ROTARY, **MARKS, head_dim=8)),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(**SIZES, **MARKS, ffn_dim=32, word_embed_proj_dim=8, init_std=0.3, dropout=0.5)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=260, n_embd=16, n_layer=2, n_head=4, initializer_range=0.3, **MARKS)
    ),
}
PROMPT = Prompt(before="see: cat\nsee:", after=" is")


def llm(family="llama", prompt=PROMPT, *, bos=True, **options):
    torch.manual_seed(1)
    model = MODELS[family]().double()
    return DecoderOnlyLLM(model, byte_tokenizer(bos=bos), prompt, address=f"folder:{family}", **options)


def soft_prompt(tower, rows=3, queries=4):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(rows, queries, tower.width, dtype=torch.float64, generator=generator, requires_grad=True)


def spelled(text):
    return byte_tokenizer()(text, add_special_tokens=False).input_ids

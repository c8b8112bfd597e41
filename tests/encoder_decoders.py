"""Tiny encoder-decoder towers of two families."""

import torch
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

from fakes import byte_tokenizer
from isthmus.language.encoder_decoder import EncoderDecoderLLM
from isthmus.language.prompts import Prompt

MARKS = {"vocab_size": 260, "d_model": 16, "pad_token_id": 0, "eos_token_id": 2}
LAYERS = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
MODELS = {
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(**MARKS, d_kv=4, d_ff=32, num_layers=2, num_heads=4, decoder_start_token_id=0, dropout_rate=0.5)
    ),
    "bart": lambda: BartForConditionalGeneration(
        BartConfig(**MARKS, **LAYERS, encoder_ffn_dim=32, decoder_ffn_dim=32, decoder_start_token_id=2, init_std=0.7)
    ),
}
PROMPT = Prompt(before="see:", after=" is")


def llm(family="t5", prompt=PROMPT, *, bos=False, **options):
    torch.manual_seed(1)
    model = MODELS[family]().double()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.7)
    return EncoderDecoderLLM(model, byte_tokenizer(bos=bos), prompt, address=f"folder:{family}", **options)

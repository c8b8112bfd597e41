"""A whole BLIP-2 with random weights as transformers publishes one: with a small vision tower."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessor,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from benchmarks.inputs import Scale
from benchmarks.language import LanguageScale, opt_config

_PAD, _END, _UNKNOWN = "<pad>", "</s>", "<unk>"
_TOWER = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 3}


def byte_tokenizer(tokens: int) -> PreTrainedTokenizerFast:
    """One token a byte, and words `wn` for all other numbers: whatever the model writes is readable."""
    alphabet = sorted(ByteLevel.alphabet())
    named = ["<s>", _PAD, _END, _UNKNOWN, *alphabet]
    words = [f"Ġw{number}" for number in range(len(named), tokens)]
    tokenizer = Tokenizer(BPE(vocab={token: number for number, token in enumerate([*named, *words])}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.post_processor = TemplateProcessing(single=f"{_END} $A", special_tokens=[(_END, 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_PAD, bos_token=_END, eos_token=_END, padding_side="left"
    )


def write_whole(folder: Path, scale: Scale, language: LanguageScale, *, seed: int = 5) -> Path:
    """Write model and processor, as a published folder has them; every weight is drawn anew."""
    image_token = language.vocabulary - 1
    tokenizer, sizes = byte_tokenizer(image_token), scale.bridge
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**_TOWER, image_size=224, patch_size=14),
        qformer_config=Blip2QFormerConfig(
            vocab_size=sizes.vocabulary,
            hidden_size=sizes.width,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            intermediate_size=sizes.feed_forward_width,
            encoder_hidden_size=_TOWER["hidden_size"],
        ),
        text_config=opt_config(language),
        num_query_tokens=sizes.queries,
        image_token_index=image_token,
    )
    model = Blip2ForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * 0.05
            parameter.copy_(1 + drawn if "norm" in name.lower() and name.endswith("weight") else drawn)
    newline = tokenizer("\n", add_special_tokens=False).input_ids[0]
    model.generation_config = GenerationConfig(eos_token_id=newline, pad_token_id=1, bos_token_id=2)
    model.save_pretrained(folder)
    pictures = BlipImageProcessor(size={"height": 224, "width": 224})
    Blip2Processor(pictures, tokenizer, num_query_tokens=sizes.queries).save_pretrained(folder)
    return folder

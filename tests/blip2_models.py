"""Tiny models of transformers' BLIP-2 family with every weight redrawn, and a state dict as LAVIS names it."""

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessor,
    GenerationConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    OPTConfig,
    T5Config,
)

from fakes import bert_tokenizer, byte_tokenizer

NEWLINE = byte_tokenizer()("\n", add_special_tokens=False).input_ids[0]
VISION = {
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
QFORMER = {
    "vocab_size": len(bert_tokenizer()) + 1,  # with [DEC], as published
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "encoder_hidden_size": 12,
}
OPT = {
    "vocab_size": 264,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 32,
    "word_embed_proj_dim": 16,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dropout": 0.0,
}
T5 = {
    "vocab_size": 264,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 4,
    "dense_act_fn": "gelu",
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}
QUERIES, IMAGE_TOKEN, SHARED = 4, 259, 6  # the byte tokenizer has 259 tokens


def text_config(kind):
    if kind == "t5":
        config = T5Config(**T5)
        config.dense_act_fn = "gelu"  # as the published BLIP-2 folders say it, against T5's own gelu_new
        return config
    return OPTConfig(**OPT)


def conditional(kind="opt"):
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**VISION),
        qformer_config=Blip2QFormerConfig(**QFORMER),
        text_config=text_config(kind),
        num_query_tokens=QUERIES,
        image_token_index=IMAGE_TOKEN,
    )
    return redrawn(Blip2ForConditionalGeneration(config))


def retrieval():
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**VISION),
        qformer_config=Blip2QFormerConfig(**QFORMER, use_qformer_text_input=True),
        num_query_tokens=QUERIES,
        image_text_hidden_size=SHARED,
    )
    return redrawn(Blip2ForImageTextRetrieval(config))


def instruct(kind="opt"):
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(**VISION),
        qformer_config=InstructBlipQFormerConfig(**QFORMER),
        text_config=text_config(kind),
        num_query_tokens=QUERIES,
        image_token_index=IMAGE_TOKEN,
    )
    return redrawn(InstructBlipForConditionalGeneration(config))


def save_whole(model, folder, *, kind="opt"):
    """Write a model with its processor, as a published folder has it."""
    model.generation_config = GenerationConfig(
        eos_token_id=NEWLINE if kind == "opt" and isinstance(model, Blip2ForConditionalGeneration) else 2,
        pad_token_id=0,
        bos_token_id=1,
        decoder_start_token_id=0 if kind == "t5" else None,
    )
    model.save_pretrained(folder)
    pictures = BlipImageProcessor(size={"height": VISION["image_size"], "width": VISION["image_size"]})
    words = bert_tokenizer()
    words.add_special_tokens({"bos_token": "[DEC]"})
    if isinstance(model, Blip2ForImageTextRetrieval):
        Blip2Processor(pictures, words).save_pretrained(folder)
        return folder
    letters = byte_tokenizer(bos=kind != "t5")
    letters.padding_side = "right" if kind == "t5" else "left"
    if kind == "t5":  # T5's own tokenizer closes what its encoder reads
        letters.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    if isinstance(model, InstructBlipForConditionalGeneration):
        InstructBlipProcessor(pictures, letters, words, num_query_tokens=QUERIES).save_pretrained(folder)
    else:
        Blip2Processor(pictures, letters, num_query_tokens=QUERIES).save_pretrained(folder)
    return folder


def untied(model):
    """Give a T5 inside of a BLIP-2 a head of its own, as Flan-T5 has: transformers' config says that it is tied."""
    head = model.language_model.lm_head
    head.weight = torch.nn.Parameter(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(9)) * 0.1)
    return model


def redrawn(model, seed=0):
    """transformers starts queries at zero and the ViT at 1e-10, which would hide most errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * 0.1
            parameter.copy_(1 + drawn if "norm" in name.lower() and name.endswith("weight") else drawn)
    return model.eval()


def lavis_state(bridge, *, projection="opt_proj"):
    """A bridge's tensors as LAVIS' `.pth` files name them, spelled out here and not by our tables."""
    state = {"query_tokens": bridge.qformer.queries[None]}
    modules = {
        "ln_vision": bridge.qformer.memory.norm,
        "Qformer.bert.embeddings.LayerNorm": bridge.qformer.norm,
        **lavis_heads(bridge.heads, state),
        **lavis_text(bridge.qformer.text, state),
    }
    if bridge.projection is not None:
        modules[projection] = bridge.projection
    crossed = 0
    for number, layer in enumerate(bridge.qformer.layers):
        modules |= lavis_layer(f"Qformer.bert.encoder.layer.{number}", layer)
        if layer.cross_attention is not None:
            inside = f"Qformer.bert.encoder.layer.{number}.crossattention.self"
            modules[f"{inside}.key"] = bridge.qformer.memory.keys[crossed]
            modules[f"{inside}.value"] = bridge.qformer.memory.values[crossed]
            crossed += 1
    for name, module in modules.items():
        state |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def lavis_heads(heads, state):
    if heads is None:
        return {}
    state["temp"] = heads.temperature
    return {"vision_proj": heads.image, "text_proj": heads.text, "itm_head": heads.match}


def lavis_text(text, state):
    if text is None:
        return {}
    embeddings, head = "Qformer.bert.embeddings", "Qformer.cls.predictions"
    state[f"{embeddings}.word_embeddings.weight"] = text.words.weight
    state[f"{embeddings}.position_embeddings.weight"] = text.positions.weight
    state[f"{embeddings}.position_ids"] = torch.arange(len(text.positions.weight))[None]
    if text.head is None:
        return {}
    state[f"{head}.bias"] = state[f"{head}.decoder.bias"] = text.head.bias
    state[f"{head}.decoder.weight"] = text.words.weight
    return {f"{head}.transform.dense": text.head.dense, f"{head}.transform.LayerNorm": text.head.norm}


def lavis_layer(name, layer):
    attention, cross = layer.self_attention, layer.cross_attention
    found = {f"{name}.attention.self.{part}": getattr(attention, part) for part in ("query", "key", "value")}
    found[f"{name}.attention.output.dense"] = attention.output.dense
    found[f"{name}.attention.output.LayerNorm"] = attention.output.norm
    if cross is not None:
        found[f"{name}.crossattention.self.query"] = cross.query
        found[f"{name}.crossattention.output.dense"] = cross.output.dense
        found[f"{name}.crossattention.output.LayerNorm"] = cross.output.norm
    for suffix, half in (("_query", layer.query_feed_forward), ("", layer.text_feed_forward)):
        if half is not None:
            found[f"{name}.intermediate{suffix}.dense"] = half.up
            found[f"{name}.output{suffix}.dense"] = half.down
            found[f"{name}.output{suffix}.LayerNorm"] = half.norm
    return found

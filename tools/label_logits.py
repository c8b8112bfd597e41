"""Measure what making logits only where a label stands saves (docs/adr/0008), on language models of random weights.

Usage: python tools/label_logits.py

A step is the loss of 32 captions behind a soft prompt of 32, and its gradient; in bf16. Captions have 6 to 14 tokens
and one has 24. Prints the seconds of a step (median of three), what it keeps for the backward, and its loss.
"""

import statistics
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from isthmus.language.heads import label_losses
from isthmus.language.labels import place_labels
from isthmus.language.llm import Target

SMOLLM2 = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
T5 = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "decoder_start_token_id": 0}
MODELS = {
    "SmolLM2-135M": ("llama", {**SMOLLM2, "vocab_size": 49_152, "intermediate_size": 1536}),
    "Flan-T5-small": ("t5", {**T5, "vocab_size": 32_128, "feed_forward_proj": "gated-gelu"}),
}
BATCH, QUERIES, STEPS = 32, 32, 3


def everywhere(model: Any, target: Target, inputs: dict[str, Any]) -> Tensor:
    """Transformers' own loss by `labels=`."""
    labels = target.ids.masked_fill(~target.mask, -100)
    if model.config.is_encoder_decoder:
        return model(**inputs, labels=labels).loss
    shifted = F.pad(labels, (QUERIES - 1, 0), value=-100)
    return model(**inputs, labels=shifted, shift_labels=shifted).loss


def padded(model: Any, target: Target, inputs: dict[str, Any]) -> Tensor:
    """Logits in the columns of captions, those of padding weighed with 0."""
    length = target.ids.shape[1]
    few = {} if model.config.is_encoder_decoder else {"logits_to_keep": torch.arange(length) + QUERIES - 1}
    logits = model(**inputs, **few).logits.flatten(0, 1).float()
    losses = F.cross_entropy(logits, target.ids.flatten(), reduction="none")
    return (losses * target.mask.flatten()).sum() / target.count


def labelled(model: Any, target: Target, inputs: dict[str, Any]) -> Tensor:
    """As isthmus does."""
    labels = place_labels(target, 0 if model.config.is_encoder_decoder else QUERIES - 1)
    return labels.row_sums(label_losses(model, labels, inputs)).sum() / target.count


def measure(name: str) -> None:
    """Print a line for each way."""
    torch.manual_seed(0)
    kind, sizes = MODELS[name]
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    model = auto.from_config(AutoConfig.for_model(kind, **sizes), dtype=torch.bfloat16).requires_grad_(False).eval()
    lengths = torch.randint(6, 15, (BATCH,))
    lengths[0] = 24
    mask = torch.arange(24) < lengths[:, None]
    target = Target(torch.randint(3, sizes["vocab_size"], mask.shape) * mask, mask)
    for way in (everywhere, padded, labelled):
        times = []
        for _ in range(STEPS):
            torch.manual_seed(0)
            began, kept = time.perf_counter(), {}
            with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: keep(t, kept), lambda t: t):
                loss = way(model, target, read(model, target))
            loss.backward()
            times.append(time.perf_counter() - began)
        own = {parameter.data_ptr() for parameter in model.parameters()}
        memory = sum(size for place, size in kept.items() if place not in own) / 2**20
        print(f"{name:14} {way.__name__:10} {statistics.median(times):6.2f} s {memory:6.0f} MB  loss {loss.item():.3f}")


def read(model: Any, target: Target) -> dict[str, Any]:
    """What a model reads in a step, a soft prompt with gradient in it."""
    embed = model.get_input_embeddings()
    soft = torch.randn(BATCH, QUERIES, embed.weight.shape[1], dtype=torch.bfloat16, requires_grad=True)
    if model.config.is_encoder_decoder:
        asked = model.prepare_decoder_input_ids_from_labels(target.ids)
        return {"inputs_embeds": soft, "decoder_input_ids": asked, "attention_mask": None, "use_cache": False}
    sequence = torch.cat([soft, embed(target.ids[:, :-1])], 1)
    seen = torch.cat([target.mask.new_ones(BATCH, QUERIES), target.mask[:, :-1]], 1).long()
    return {"inputs_embeds": sequence, "attention_mask": seen, "use_cache": False}


def keep(tensor: Tensor, kept: dict[int, int]) -> Tensor:
    """Note the memory of what is saved for the backward."""
    storage = tensor.untyped_storage()
    kept[storage.data_ptr()] = storage.nbytes()
    return tensor


if __name__ == "__main__":
    for name in MODELS:
        measure(name)

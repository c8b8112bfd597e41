"""Measure what making logits only where a label stands saves (docs/adr/0008), on language models of random weights.

Usage: python tools/label_logits.py

A step is the loss of 32 captions behind a soft prompt of 32, and its gradient; in bf16. Captions have 6 to 14 tokens
and one has 24. Every line is a process of its own: seconds a step, median of five, memory at its highest beyond the
model's, and the mean loss. Linux only.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, multiprocessing
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from isthmus.language import heads
from isthmus.language.labels import Labels, place_labels
from isthmus.language.llm import Target

MODELS = {
    "SmolLM2-135M": ("llama", 49_152, {
        "hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536, "num_attention_heads": 9,
        "num_key_value_heads": 3,
    }),
    "Flan-T5-small": ("t5", 32_128, {
        "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu",
        "decoder_start_token_id": 0, "tie_word_embeddings": False,
    }),
}  # fmt: skip
BATCH, QUERIES, STEPS = 32, 32, 3


def _every(model: torch.nn.Module, labels: Labels, inputs: dict) -> Tensor:
    return model(**inputs).logits.flatten(0, 1).index_select(0, labels.states())


def _padded(model: torch.nn.Module, labels: Labels, inputs: dict) -> Tensor:
    heads.HEADS, heads.COUNTS_FREELY = {}, set()
    return heads.label_logits(model, labels, inputs)


ROUTES: dict[str, Callable] = {
    "every logit": _every,
    "labels and padding": _padded,
    "labels only": heads.label_logits,
}


def measure(_: int, name: str, route: str) -> None:
    """Print one line."""
    torch.manual_seed(0)
    kind, vocabulary, sizes = MODELS[name]
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    model = auto.from_config(AutoConfig.for_model(kind, vocab_size=vocabulary, **sizes), dtype=torch.bfloat16)
    model.requires_grad_(False).eval()
    lengths = torch.randint(6, 15, (BATCH,))
    lengths[0] = 24
    mask = torch.arange(24) < lengths[:, None]
    target = Target(torch.randint(3, vocabulary, mask.shape) * mask, mask)
    width = model.get_input_embeddings().weight.shape[1]
    soft = torch.randn(BATCH, QUERIES, width, dtype=torch.bfloat16, requires_grad=True)
    Path("/proc/self/clear_refs").write_text("5")  # what was highest so far is forgotten
    before, times = _resident("VmRSS"), []
    for _ in range(STEPS):
        began = time.perf_counter()
        sums = _step(model, soft, target, ROUTES[route])
        sums.sum().backward()
        times.append(time.perf_counter() - began)
    memory = _resident("VmHWM") - before
    print(f"{name:14} {route:18} {statistics.median(times):.2f} s {memory:6.0f} MB  loss {sums.mean().item():.2f}")


def _step(model: torch.nn.Module, soft: Tensor, target: Target, logits: Callable) -> Tensor:
    if model.config.is_encoder_decoder:
        labels = place_labels(target, 0)
        inputs = {"inputs_embeds": soft, "decoder_input_ids": model.prepare_decoder_input_ids_from_labels(target.ids)}
        return labels.row_sums(logits(model, labels, {**inputs, "attention_mask": None, "use_cache": False}))
    labels = place_labels(target, QUERIES - 1)
    sequence = torch.cat([soft, model.get_input_embeddings()(target.ids[:, :-1])], 1)
    seen = torch.cat([target.mask.new_ones(BATCH, QUERIES), target.mask[:, :-1]], 1).long()
    return labels.row_sums(
        logits(model, labels, {"inputs_embeds": sequence, "attention_mask": seen, "use_cache": False})
    )


def _resident(which: str) -> float:
    """MB of this process in memory: now (VmRSS) or at the highest (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(which))) / 1024


if __name__ == "__main__":
    for name in MODELS:
        for route in ROUTES:
            multiprocessing.spawn(measure, (name, route), nprocs=1)

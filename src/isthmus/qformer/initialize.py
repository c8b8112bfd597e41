"""The Q-Former's start: random, or from any BERT-like checkpoint, with a report of every tensor.

From a BERT the text side is copied, the query feed-forward is copied from the text one, the MLM head is copied where
the checkpoint has one, cross-attention starts random and `[DEC]` gets a row of its own (BLIP-2 §3.1).
BERT adds token-type row 0 to every text token; it is folded into the position embeddings, so that a fresh bridge
reads text exactly as its BERT does. The original drops it: `fold_token_type=False`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from isthmus.errors import CheckpointError, TowerError
from isthmus.qformer.qformer import QFormer
from isthmus.records import BridgeSizes

STANDARD_DEVIATION = 0.02
_FILES = ["config.json", "*.safetensors", "tokenizer*", "vocab.txt", "special_tokens_map.json"]
_EMBEDDINGS = {
    "text.words.weight": "embeddings.word_embeddings.weight",
    "text.positions.weight": "embeddings.position_embeddings.weight",
    "norm.weight": "embeddings.LayerNorm.weight",
    "norm.bias": "embeddings.LayerNorm.bias",
}
_LAYER = {
    "self_attention.query": "attention.self.query",
    "self_attention.key": "attention.self.key",
    "self_attention.value": "attention.self.value",
    "self_attention.output.dense": "attention.output.dense",
    "self_attention.output.norm": "attention.output.LayerNorm",
    "text_feed_forward.up": "intermediate.dense",
    "text_feed_forward.down": "output.dense",
    "text_feed_forward.norm": "output.LayerNorm",
    "query_feed_forward.up": "intermediate.dense",
    "query_feed_forward.down": "output.dense",
    "query_feed_forward.norm": "output.LayerNorm",
}
_HEAD = {
    "text.head.dense.weight": "cls.predictions.transform.dense.weight",
    "text.head.dense.bias": "cls.predictions.transform.dense.bias",
    "text.head.norm.weight": "cls.predictions.transform.LayerNorm.weight",
    "text.head.norm.bias": "cls.predictions.transform.LayerNorm.bias",
    "text.head.bias": "cls.predictions.bias",
}
_TOKEN_TYPE = "embeddings.token_type_embeddings.weight"


@dataclass(frozen=True)
class Bert:
    """A BERT-like checkpoint as read: its configuration, its tensors without the `bert.` prefix, its folder."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    folder: Path

    def sizes(self, vision_width: int, *, vocabulary: int, queries: int, cross_frequency: int) -> BridgeSizes:
        """Bridge sizes that this BERT fills; `vocabulary` counts `[DEC]`."""
        return BridgeSizes(
            vision_width=vision_width,
            width=self.config["hidden_size"],
            layers=self.config["num_hidden_layers"],
            heads=self.config["num_attention_heads"],
            feed_forward_width=self.config["intermediate_size"],
            norm_eps=self.config.get("layer_norm_eps", 1e-12),
            positions=self.config["max_position_embeddings"],
            vocabulary=vocabulary,
            queries=queries,
            cross_frequency=cross_frequency,
        )


@dataclass
class InitReport:
    """Where each tensor of a fresh Q-Former came from; `unused` are the checkpoint's that found no place."""

    copied: dict[str, str] = field(default_factory=dict)
    random: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """One line a tensor, and a line of totals first."""
        if not self.copied:
            total = [f"Q-Former from scratch: all {len(self.random)} tensors are random"]
        else:
            counts = f"{len(self.copied)} tensors copied, {len(self.random)} random, {len(self.unused)} unused"
            total = [f"Q-Former from a BERT: {counts}"]
        return [
            *total,
            *(f"  copied  {name}  <- {source}" for name, source in self.copied.items()),
            *(f"  random  {name}" for name in self.random),
            *(f"  unused  {name}" for name in self.unused),
        ]


def read_bert(name: str, *, revision: str | None = None) -> Bert:
    """Read a BERT by folder or Hub id (safetensors only).

    Raises `TowerError` where there is none, or where it is of another model type.
    """
    folder = Path(name) if Path(name).is_dir() else _download(name, revision)
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise TowerError(f"{folder} has no config.json; give the folder or Hub id of a BERT checkpoint")
    config = json.loads(config_file.read_text(encoding="utf-8"))
    kind = config.get("model_type")
    if kind != "bert":
        raise TowerError(f"{name} is of model type {kind!r}; the Q-Former starts from model type 'bert' only")
    if config.get("hidden_act", "gelu") != "gelu":
        raise TowerError(f"{name} uses the activation {config['hidden_act']!r}; the Q-Former computes 'gelu' only")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise TowerError(f"{name} has {config['position_embedding_type']!r} positions; the Q-Former has absolute ones")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise TowerError(f"{folder} holds no .safetensors file; convert the checkpoint to safetensors first")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= {_name(key): value for key, value in load_file(file).items()}
        except SafetensorError as problem:
            raise TowerError(f"{file} is no readable safetensors file ({problem}); fetch it again") from problem
    return Bert(config, tensors, folder)


def _name(key: str) -> str:
    """A tensor's name without the `bert.` prefix; the first BERTs call a LayerNorm's weight gamma, its bias beta."""
    key = key.removeprefix("bert.")
    return key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _download(name: str, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as problem:
        raise TowerError(
            f"{name!r} is neither a folder nor a model that the Hub gives here; check the name and the connection"
        ) from problem


def draw_random(module: nn.Module, *, seed: int, queries: nn.Parameter | None = None) -> None:
    """Fill a module as BERT does: weights and queries N(0, 0.02), biases 0, LayerNorms 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.reset_parameters()
        elif isinstance(part, nn.Linear | nn.Embedding):
            _normal(part.weight, generator)
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)
    if queries is not None:
        _normal(queries, generator)


def _normal(parameter: Tensor, generator: torch.Generator) -> None:
    with torch.no_grad():
        drawn = torch.empty(parameter.shape).normal_(0, STANDARD_DEVIATION, generator=generator)
        parameter.copy_(drawn)


def from_scratch(qformer: QFormer, *, seed: int) -> InitReport:
    """Start every tensor at random; the report says so."""
    draw_random(qformer, seed=seed, queries=qformer.queries)
    if qformer.text is not None and qformer.text.head is not None:
        nn.init.zeros_(qformer.text.head.bias)
    return InitReport(random=list(qformer.state_dict()))


@torch.no_grad()
def from_bert(
    qformer: QFormer, bert: Bert, *, seed: int, fold_token_type: bool = True, dec_from: int | None
) -> InitReport:
    """Start from a BERT; `[DEC]` is the last row of the vocabulary and copies row `dec_from` (None: random).

    Raises `CheckpointError` when the BERT lacks a tensor of its text side or has it in another shape.
    """
    from_scratch(qformer, seed=seed)
    target, report, used = qformer.state_dict(), InitReport(), set()
    for name, source in _pairs(len(qformer.layers), bert):
        if source not in bert.tensors:
            raise CheckpointError(f"{bert.folder} lacks the tensor {source}; it is no complete BERT checkpoint")
        _copy_rows(target[name], bert.tensors[source], name=f"{source} in {bert.folder}")
        report.copied[name] = source
        used.add(source)
    if fold_token_type and _TOKEN_TYPE in bert.tensors:
        target["text.positions.weight"] += bert.tensors[_TOKEN_TYPE][0]
        report.copied["text.positions.weight"] += f" + row 0 of {_TOKEN_TYPE}"
        used.add(_TOKEN_TYPE)
    words = target["text.words.weight"]
    if dec_from is not None:
        words[-1] = words[dec_from]
    start = "random" if dec_from is None else f"row {dec_from}"
    report.copied["text.words.weight"] += f"; [DEC] starts as {start}"
    report.random = [name for name in target if name not in report.copied]
    report.unused = sorted(set(bert.tensors) - used)
    return report


def mlm_head(bert: Bert, vocabulary: int) -> dict[str, Tensor]:
    """The LM head of a Q-Former from a BERT's MLM head, by our names; a row for `[DEC]` starts at 0.

    Raises `CheckpointError` when the BERT lacks one, or has another vocabulary.
    """
    found = {}
    for name, source in _HEAD.items():
        if source not in bert.tensors:
            raise CheckpointError(f"{bert.folder} lacks the tensor {source}; give a BERT with its MLM head")
        tensor = bert.tensors[source]
        found[name] = tensor.new_zeros(vocabulary) if name == "text.head.bias" else torch.empty_like(tensor)
        _copy_rows(found[name], tensor, name=f"{source} in {bert.folder}")
    return found


def _pairs(layers: int, bert: Bert) -> Iterator[tuple[str, str]]:
    """Each tensor of the Q-Former that a BERT fills, with its name there."""
    yield from _EMBEDDINGS.items()
    for number in range(layers):
        for name, source in _LAYER.items():
            for kind in ("weight", "bias"):
                yield f"layers.{number}.{name}.{kind}", f"encoder.layer.{number}.{source}.{kind}"
    if any(source in bert.tensors for source in _HEAD.values()):
        yield from _HEAD.items()


def _copy_rows(target: Tensor, source: Tensor, *, name: str) -> None:
    """Copy a tensor; a vocabulary may be longer here (`[DEC]`) or there (padding rows), every other axis not.

    `[DEC]`'s own row, the last, is never one of the source's padding rows.
    """
    resizable = name.startswith(("embeddings.word_embeddings", "cls.predictions.bias"))
    rows = len(target) - 1 if resizable and len(source) >= len(target) else len(source)
    if target.shape[1:] != source.shape[1:] or (target.shape != source.shape and not resizable):
        raise CheckpointError(
            f"{name} has shape {tuple(source.shape)}, the Q-Former needs {tuple(target.shape)}; "
            "give sizes that fit this BERT"
        )
    target[:rows] = source[:rows].to(target.dtype)

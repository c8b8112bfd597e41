"""What each tensor of a bridge is called elsewhere: one declarative table for each layout of weights.

A table names the parts of a bridge that a layout has a place for. What it has no place for is absent in a bridge read
from it, and is named where a bridge is written to it. Every key of a file must be in the table, or belong to a tower;
nothing is loaded loosely.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from isthmus.errors import CheckpointError
from isthmus.records import BridgeSizes

QUERIES = "qformer.queries"
WORDS, POSITIONS, HEAD_BIAS = "qformer.text.words.weight", "qformer.text.positions.weight", "qformer.text.head.bias"
TEMPERATURE = "heads.temperature"
_LAYER = {
    "self_attention.query": "attention.{inner}.query",
    "self_attention.key": "attention.{inner}.key",
    "self_attention.value": "attention.{inner}.value",
    "self_attention.output.dense": "attention.output.dense",
    "self_attention.output.norm": "attention.output.LayerNorm",
    "query_feed_forward.up": "intermediate_query.dense",
    "query_feed_forward.down": "output_query.dense",
    "query_feed_forward.norm": "output_query.LayerNorm",
}
_CROSS = {
    "cross_attention.query": "crossattention.{inner}.query",
    "cross_attention.output.dense": "crossattention.output.dense",
    "cross_attention.output.norm": "crossattention.output.LayerNorm",
}
_MEMORY = {"keys": "crossattention.{inner}.key", "values": "crossattention.{inner}.value"}
_TEXT_FEED_FORWARD = {
    "text_feed_forward.up": "intermediate.dense",
    "text_feed_forward.down": "output.dense",
    "text_feed_forward.norm": "output.LayerNorm",
}
_HEADS = ("heads.image", "heads.text", "heads.match")


@dataclass(frozen=True)
class KeyTable:
    """The names of one layout: `parts` outside of the layers, and what stands before a layer's number.

    `inner` is the module that holds an attention's projections; `text` says whether layers have a text feed-forward.
    `towers` are the beginnings of keys that belong to
    frozen models, `tied` are keys that repeat a tensor of the bridge, with its name here, and `silent` hold nothing.
    """

    name: str
    parts: Mapping[str, str]
    layer: str
    inner: str = "attention"
    text: bool = True
    towers: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    silent: tuple[str, ...] = ()

    def keys(self, sizes: BridgeSizes) -> dict[str, str]:
        """The name in this layout of every tensor that a bridge of these sizes has a place for there, by our name."""
        names = {ours: self.parts[ours] for ours in _single(sizes) if ours in self.parts}
        for ours in _modules(sizes):
            if ours in self.parts:
                names |= _both(ours, self.parts[ours])
        for ours, theirs in self._layers(sizes):
            if self.text or ".text_feed_forward." not in ours:
                names |= _both(ours, theirs)
        return names

    def lost(self, sizes: BridgeSizes) -> list[str]:
        """What a bridge of these sizes has and this layout has no place for, by our names."""
        modules = [*_modules(sizes), *(ours for ours, _ in self._layers(sizes))]
        every = [*_single(sizes), *(f"{name}.{kind}" for name in modules for kind in ("weight", "bias"))]
        known = self.keys(sizes)
        return [name for name in every if name not in known]

    def _layers(self, sizes: BridgeSizes) -> Iterator[tuple[str, str]]:
        """Each module of a bridge's layers, by our name and by theirs."""
        cross = 0
        for number in range(sizes.layers):
            crosses = number % sizes.cross_frequency == 0
            inside = {**_LAYER, **(_CROSS if crosses else {}), **(_TEXT_FEED_FORWARD if sizes.text else {})}
            named = {f"qformer.layers.{number}.{name}": key for name, key in inside.items()}
            if crosses:
                named |= {f"qformer.memory.{name}.{cross}": key for name, key in _MEMORY.items()}
            for ours, key in named.items():
                yield ours, self.layer.format(number) + key.format(inner=self.inner)
            cross += crosses


def _single(sizes: BridgeSizes) -> list[str]:
    """Our tensors outside of the layers that are no weight and bias of a module."""
    there = {
        QUERIES: True,
        WORDS: sizes.text,
        POSITIONS: sizes.text,
        HEAD_BIAS: sizes.lm_head,
        TEMPERATURE: sizes.temperature,
    }
    return [name for name, is_there in there.items() if is_there]


def _modules(sizes: BridgeSizes) -> list[str]:
    """Our modules outside of the layers, each with a weight and a bias."""
    lm_head = ["qformer.text.head.dense", "qformer.text.head.norm"] if sizes.lm_head else []
    heads = [] if sizes.shared_width is None else list(_HEADS)
    projection = [] if sizes.language_width is None else ["projection"]
    return ["qformer.norm", "qformer.memory.norm", *lm_head, *heads, *projection]


def _both(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}


def check_keys(table: KeyTable, sizes: BridgeSizes, given: Collection[str], place: object) -> dict[str, str]:
    """The keys to read, by our names; raises `CheckpointError` naming those that are missing or not in the table."""
    wanted = table.keys(sizes)
    known = {*wanted.values(), *table.tied, *table.silent}
    foreign = sorted(key for key in given if key not in known and not key.startswith(table.towers))
    missing = sorted(set(wanted.values()) - set(given))
    if foreign or missing:
        what, keys = ("lacks", missing) if missing else ("has keys that no table knows:", foreign)
        raise misfit(place, what, keys, table)
    return wanted


def misfit(place: object, what: str, keys: Sequence[str], table: KeyTable) -> CheckpointError:
    """What to say of weights that are not those of a layout: `what` is wrong with these keys; five are named."""
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return CheckpointError(
        f"{place} {what} {', '.join(keys[:5])}{more}, read as {table.name}; give whole weights of that layout"
    )


def to_bridge(name: str, tensor: Tensor) -> Tensor:
    """A tensor as the bridge holds it: fp32, or fp64 where it is, and the queries without their batch axis."""
    shaped = tensor[0] if name == QUERIES and tensor.ndim == 3 and len(tensor) == 1 else tensor
    return shaped.to(torch.promote_types(shaped.dtype, torch.float32)).contiguous()


def from_bridge(name: str, tensor: Tensor) -> Tensor:
    """A tensor as the other layouts hold it: the queries with a batch axis."""
    return tensor[None] if name == QUERIES else tensor


_OUTSIDE = {QUERIES: "query_tokens"}
_TRANSFORMERS = {**_OUTSIDE, "qformer.norm": "qformer.layernorm", "qformer.memory.norm": "vision_model.post_layernorm"}
_TRANSFORMERS_LAYER = "qformer.encoder.layer.{}."
_TOWERS = ("vision_model.", "language_model.")

CONDITIONAL = KeyTable(
    "Blip2ForConditionalGeneration",
    {**_TRANSFORMERS, "projection": "language_projection"},
    _TRANSFORMERS_LAYER,
    text=False,
    towers=_TOWERS,
)
RETRIEVAL = KeyTable(
    "Blip2ForImageTextRetrieval",
    {
        **_TRANSFORMERS,
        WORDS: "embeddings.word_embeddings.weight",
        POSITIONS: "embeddings.position_embeddings.weight",
        "heads.image": "vision_projection",
        "heads.text": "text_projection",
        "heads.match": "itm_head",
    },
    _TRANSFORMERS_LAYER,
    towers=_TOWERS[:1],
    silent=("embeddings.position_ids",),
)
INSTRUCT = KeyTable(
    "InstructBlipForConditionalGeneration",
    {
        **_TRANSFORMERS,
        "qformer.norm": "qformer.embeddings.layernorm",
        WORDS: "qformer.embeddings.word_embeddings.weight",
        POSITIONS: "qformer.embeddings.position_embeddings.weight",
        "projection": "language_projection",
    },
    _TRANSFORMERS_LAYER,
    towers=_TOWERS,
    silent=("qformer.embeddings.position_ids",),
)
QFORMER = KeyTable("Blip2QFormerModel", {"qformer.norm": "layernorm"}, "encoder.layer.{}.")
_LAVIS_HEAD = "Qformer.cls.predictions."
_LAVIS = {
    **_OUTSIDE,
    "qformer.memory.norm": "ln_vision",
    "qformer.norm": "Qformer.bert.embeddings.LayerNorm",
    WORDS: "Qformer.bert.embeddings.word_embeddings.weight",
    POSITIONS: "Qformer.bert.embeddings.position_embeddings.weight",
    "qformer.text.head.dense": f"{_LAVIS_HEAD}transform.dense",
    "qformer.text.head.norm": f"{_LAVIS_HEAD}transform.LayerNorm",
    HEAD_BIAS: f"{_LAVIS_HEAD}bias",
    "heads.image": "vision_proj",
    "heads.text": "text_proj",
    "heads.match": "itm_head",
    TEMPERATURE: "temp",
}


def lavis(projection: str | None) -> KeyTable:
    """The layout of LAVIS' files; the projection is called after the language model it leads into."""
    return KeyTable(
        "LAVIS" if projection is None else f"LAVIS {projection}",
        _LAVIS if projection is None else {**_LAVIS, "projection": projection},
        "Qformer.bert.encoder.layer.{}.",
        inner="self",
        tied={f"{_LAVIS_HEAD}decoder.weight": WORDS, f"{_LAVIS_HEAD}decoder.bias": HEAD_BIAS},
        silent=("Qformer.bert.embeddings.position_ids",),
    )

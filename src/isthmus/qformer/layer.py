"""One Q-Former layer: BERT's post-LN block with cross-attention and a second feed-forward for the queries.

    queries ─┐                 ┌─▶ cross-attention ─▶ query feed-forward ─▶
             ├─▶ self-attention┤   (every second layer)
    text ────┘                 └─▶ text feed-forward ─────────────────────▶

The parts are applied by `qformer.py`, which knows who looks at whom; nothing here knows a mask's meaning.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isthmus.qformer.activation import gelu_then
from isthmus.qformer.attention import attention
from isthmus.qformer.dropout import dropout
from isthmus.qformer.layout import Layout
from isthmus.qformer.memory import Memory, merge_heads, split_heads
from isthmus.records import BridgeSizes

Heads = Float[Tensor, "B H K d"]
Looking = Float[Tensor, "B H S d"]


@dataclass(frozen=True)
class Dropouts:
    """Dropout probabilities in training, each part by itself; BERT's own are 0.1 everywhere."""

    embedding: float = 0.1
    attention: float = 0.1
    hidden: float = 0.1


class AttentionOutput(nn.Module):
    """What closes an attention: project, drop, add the input, normalise (BERT's post-LN)."""

    def __init__(self, sizes: BridgeSizes, dropouts: Dropouts) -> None:
        super().__init__()
        self.dense = nn.Linear(sizes.width, sizes.width)
        self.norm = nn.LayerNorm(sizes.width, eps=sizes.norm_eps)
        self.dropout = dropouts.hidden

    def forward(self, attended: Float[Tensor, "... D"], states: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Join what was attended to what looked."""
        hidden = dropout(self.dense(attended), self.dropout, training=self.training)
        joined: Tensor = self.norm(hidden + states)
        return joined


class SelfAttention(nn.Module):
    """Self-attention shared by queries and text; a `layout` says where tokens that come packed stand in their rows."""

    def __init__(self, sizes: BridgeSizes, dropouts: Dropouts) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.query = nn.Linear(sizes.width, sizes.width)
        self.key = nn.Linear(sizes.width, sizes.width)
        self.value = nn.Linear(sizes.width, sizes.width)
        self.output = AttentionOutput(sizes, dropouts)
        self.dropout = dropouts.attention

    def project(self, states: Float[Tensor, "... D"], layout: Layout | None = None) -> tuple[Looking, Heads, Heads]:
        """Queries, keys and values of the same states, which are rounded to the precision of products once."""
        rounded = as_computed(states)
        return (self.project_query(rounded, layout), *self.keys_values(rounded, layout))

    def project_query(self, states: Float[Tensor, "... D"], layout: Layout | None = None) -> Looking:
        """Project what looks."""
        return self._heads(self.query(states), layout)

    def keys_values(self, states: Float[Tensor, "... D"], layout: Layout | None = None) -> tuple[Heads, Heads]:
        """Project what is looked at."""
        rounded = as_computed(states)
        return self._heads(self.key(rounded), layout), self._heads(self.value(rounded), layout)

    def forward(
        self,
        states: Float[Tensor, "... D"],
        projected: tuple[Looking, Heads, Heads],
        bias: Tensor | None,
        layout: Layout | None = None,
    ) -> Float[Tensor, "... D"]:
        """Let `states`, by their projected queries, look at keys and values under an additive bias."""
        attended = attention(*projected, bias=bias, dropout=self.dropout if self.training else 0.0)
        merged = merge_heads(attended)
        joined: Tensor = self.output(merged if layout is None else layout.unpad(merged), states)
        return joined

    def _heads(self, projected: Float[Tensor, "... D"], layout: Layout | None) -> Float[Tensor, "B H R d"]:
        return split_heads(projected if layout is None else layout.pad(projected), self.heads)


class CrossAttention(nn.Module):
    """Queries look at an image's memory; keys and values live in `memory.PatchMemory`."""

    def __init__(self, sizes: BridgeSizes, dropouts: Dropouts) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.query = nn.Linear(sizes.width, sizes.width)
        self.output = AttentionOutput(sizes, dropouts)
        self.dropout = dropouts.attention

    def project(self, queries: Float[Tensor, "B Q D"]) -> Float[Tensor, "B H Q d"]:
        """Project what looks."""
        return split_heads(self.query(queries), self.heads)

    def forward(self, queries: Float[Tensor, "B Q D"], memory: Memory, cross: int) -> Float[Tensor, "B Q D"]:
        """Let queries look at every patch of their image, in cross-attention layer number `cross` of its memory."""
        dropout = self.dropout if self.training else 0.0
        attended = memory.attended(self.query(queries), cross, heads=self.heads, dropout=dropout)
        joined: Tensor = self.output(attended, queries)
        return joined


class FeedForward(nn.Module):
    """BERT's feed-forward: dense, GELU, dense, drop, add, normalise."""

    def __init__(self, sizes: BridgeSizes, dropouts: Dropouts) -> None:
        super().__init__()
        self.up = nn.Linear(sizes.width, sizes.feed_forward_width)
        self.down = nn.Linear(sizes.feed_forward_width, sizes.width)
        self.norm = nn.LayerNorm(sizes.width, eps=sizes.norm_eps)
        self.dropout = dropouts.hidden

    def forward(self, states: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Transform each position by itself."""
        hidden = dropout(gelu_then(self.down, self.up(states)), self.dropout, training=self.training)
        joined: Tensor = self.norm(hidden + states)
        return joined


def compute_dtype(states: Tensor) -> torch.dtype:
    """The dtype that products of these states are computed in: autocast's, or their own."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


def as_computed(states: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """States as products take them, so that several share one copy."""
    return states.to(compute_dtype(states))


class Layer(nn.Module):
    """The parts of one layer; `cross_attention` every `cross_frequency`-th, `text_feed_forward` with a text half."""

    def __init__(self, sizes: BridgeSizes, dropouts: Dropouts, *, crosses: bool) -> None:
        super().__init__()
        self.self_attention = SelfAttention(sizes, dropouts)
        self.cross_attention = CrossAttention(sizes, dropouts) if crosses else None
        self.query_feed_forward = FeedForward(sizes, dropouts)
        self.text_feed_forward = FeedForward(sizes, dropouts) if sizes.text else None

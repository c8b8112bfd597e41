"""One Q-Former layer: BERT's post-LN block with cross-attention and a second feed-forward for the queries.

    queries ─┐                 ┌─▶ cross-attention ─▶ query feed-forward ─▶
             ├─▶ self-attention┤   (every second layer)
    text ────┘                 └─▶ text feed-forward ─────────────────────▶

The parts are applied by `qformer.py`, which knows who looks at whom; nothing here knows a mask's meaning.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from isthmus.qformer.attention import attention
from isthmus.qformer.memory import merge_heads, split_heads
from isthmus.records import BridgeSizes

Heads = Float[Tensor, "B H K d"]


@dataclass(frozen=True)
class Dropouts:
    """Dropout probabilities in training, each part by itself; BERT's own are 0.1 everywhere."""

    embedding: float = 0.1
    attention: float = 0.1
    hidden: float = 0.1


class AttentionOutput(nn.Module):
    """What closes an attention: merge heads, project, drop, add the input, normalise (BERT's post-LN)."""

    def __init__(self, sizes: BridgeSizes, dropouts: Dropouts) -> None:
        super().__init__()
        self.dense = nn.Linear(sizes.width, sizes.width)
        self.norm = nn.LayerNorm(sizes.width, eps=sizes.norm_eps)
        self.dropout = dropouts.hidden

    def forward(self, attended: Float[Tensor, "B H S d"], states: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """Join what was attended to what looked."""
        hidden = F.dropout(self.dense(merge_heads(attended)), self.dropout, self.training)
        joined: Tensor = self.norm(hidden + states)
        return joined


class SelfAttention(nn.Module):
    """Self-attention shared by queries and text."""

    def __init__(self, sizes: BridgeSizes, dropouts: Dropouts) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.query = nn.Linear(sizes.width, sizes.width)
        self.key = nn.Linear(sizes.width, sizes.width)
        self.value = nn.Linear(sizes.width, sizes.width)
        self.output = AttentionOutput(sizes, dropouts)
        self.dropout = dropouts.attention

    def keys_values(self, states: Float[Tensor, "B K D"]) -> tuple[Heads, Heads]:
        """Project what is looked at."""
        return split_heads(self.key(states), self.heads), split_heads(self.value(states), self.heads)

    def forward(
        self, states: Float[Tensor, "B S D"], keys: Heads, values: Heads, bias: Tensor | None
    ) -> Float[Tensor, "B S D"]:
        """Let `states` look at keys and values under an additive bias."""
        query = split_heads(self.query(states), self.heads)
        attended = attention(query, keys, values, bias=bias, dropout=self.dropout if self.training else 0.0)
        joined: Tensor = self.output(attended, states)
        return joined


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

    def forward(self, queries: Float[Tensor, "B Q D"], keys: Heads, values: Heads) -> Float[Tensor, "B Q D"]:
        """Let queries look at every patch."""
        dropout = self.dropout if self.training else 0.0
        joined: Tensor = self.output(attention(self.project(queries), keys, values, dropout=dropout), queries)
        return joined


class FeedForward(nn.Module):
    """BERT's feed-forward: dense, GELU, dense, drop, add, normalise."""

    def __init__(self, sizes: BridgeSizes, dropouts: Dropouts) -> None:
        super().__init__()
        self.up = nn.Linear(sizes.width, sizes.feed_forward_width)
        self.down = nn.Linear(sizes.feed_forward_width, sizes.width)
        self.norm = nn.LayerNorm(sizes.width, eps=sizes.norm_eps)
        self.dropout = dropouts.hidden

    def forward(self, states: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """Transform each position by itself."""
        hidden = F.dropout(self.down(F.gelu(self.up(states))), self.dropout, self.training)
        joined: Tensor = self.norm(hidden + states)
        return joined


class Layer(nn.Module):
    """The parts of one layer; `cross_attention` every `cross_frequency`-th, `text_feed_forward` with a text half."""

    def __init__(self, sizes: BridgeSizes, dropouts: Dropouts, *, crosses: bool) -> None:
        super().__init__()
        self.self_attention = SelfAttention(sizes, dropouts)
        self.cross_attention = CrossAttention(sizes, dropouts) if crosses else None
        self.query_feed_forward = FeedForward(sizes, dropouts)
        self.text_feed_forward = FeedForward(sizes, dropouts) if sizes.text else None

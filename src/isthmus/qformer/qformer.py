"""The Q-Former: one plain definition, `forward`, and four verbs that compute the same without the waste.

    verb          mask                returns
    encode_image  unimodal            query states, prefix, memory        ITC, stage 2, prediction
    encode_text   unimodal            the [CLS] state                     ITC, retrieval
    fuse          bidirectional       query states that read the text     ITM, re-ranking
    decode        multimodal causal   next-token states                   ITG

`forward` is figure 2 of the paper and shares nothing; a test holds each verb equal to it under its mask, values
and gradients. The verbs save what the mask makes needless: text that no query may see is not computed with the
queries, image keys and values are projected once (`memory.py`), queries under the causal mask are those of the
image pass (`prefix`), and the last layer is computed only for the positions that are returned.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from isthmus.errors import AbsentPartError, ConfigError
from isthmus.qformer.attention import attention_weights
from isthmus.qformer.dropout import dropout
from isthmus.qformer.layer import Dropouts, FeedForward, Heads, Layer, compute_dtype
from isthmus.qformer.layout import Layout
from isthmus.qformer.masks import additive, bidirectional, multimodal_causal
from isthmus.qformer.memory import Memory, PatchMemory, split_heads
from isthmus.qformer.text import TextHalf
from isthmus.records import BridgeSizes, Text

Prefix = tuple[tuple[Heads, Heads], ...]


@dataclass(frozen=True)
class ImageEncoding:
    """What `encode_image` knows of B images: query states, the queries' self-attention keys and values, memory."""

    states: Float[Tensor, "B Q D"]
    prefix: Prefix
    memory: Memory


@dataclass(frozen=True)
class States:
    """What `forward` returns; `looks` holds, if asked for, where each query looks in each cross-attention layer."""

    queries: Float[Tensor, "B Q D"]
    text: Float[Tensor, "B T D"] | None
    looks: tuple[Float[Tensor, "B H Q P"], ...]


class QFormer(nn.Module):
    """Learned queries that read an image by cross-attention and share self-attention with text (BLIP-2 §3.1)."""

    def __init__(self, sizes: BridgeSizes, dropouts: Dropouts | None = None) -> None:
        super().__init__()
        if sizes.width % sizes.heads:
            raise ConfigError(
                f"the Q-Former's width {sizes.width} is no multiple of its {sizes.heads} heads; change either"
            )
        dropouts = dropouts or Dropouts()
        crosses = [number % sizes.cross_frequency == 0 for number in range(sizes.layers)]
        self.queries = nn.Parameter(torch.empty(sizes.queries, sizes.width))
        self.norm = nn.LayerNorm(sizes.width, eps=sizes.norm_eps)
        self.dropout = dropouts.embedding
        self.text = TextHalf(sizes) if sizes.text else None
        self.memory = PatchMemory(
            sizes.vision_width, sizes.width, heads=sizes.heads, layers=sum(crosses), eps=sizes.patch_norm_eps
        )
        self.layers = nn.ModuleList(Layer(sizes, dropouts, crosses=c) for c in crosses)

    def forward(
        self,
        text: Text | None,
        mask: Bool[Tensor, "B S S"] | None,
        patches: Float[Tensor, "B P V"],
        *,
        look: bool = False,
    ) -> States:
        """Compute figure 2 of the paper as it is drawn, under any task mask (S = Q + T).

        `look` asks for the cross-attention's weights too: where each query looks.
        Raises `AbsentPartError` when text is given and the bridge has no text half.
        """
        count, states = self.queries.shape[0], self._embed_queries(patches.shape[0])
        if text is not None:
            states = torch.cat([states, self._embed_text(text)], dim=1)
        bias = None if mask is None else additive(mask[:, None], compute_dtype(states))
        normalised = self.memory.norm(self.memory.own_dtype(patches))
        looks: list[Tensor] = []
        for layer, cross in self._layers():
            states = layer.self_attention(states, layer.self_attention.project(states), bias)
            queries, words = states[:, :count], states[:, count:]
            if layer.cross_attention is not None:
                keys = split_heads(self.memory.keys[cross](normalised), self.memory.heads)
                values = split_heads(self.memory.values[cross](normalised), self.memory.heads)
                if look:
                    looks.append(attention_weights(layer.cross_attention.project(queries), keys).detach())
                queries = layer.cross_attention(queries, Memory((keys,), (values,)), 0)
            queries = layer.query_feed_forward(queries)
            states = queries if text is None else torch.cat([queries, self._text_feed_forward(layer)(words)], dim=1)
        return States(states[:, :count], None if text is None else states[:, count:], tuple(looks))

    def encode_image(self, patches: Float[Tensor, "B P V"]) -> ImageEncoding:
        """Let the queries read the image alone: under the unimodal and causal masks they never see text."""
        memory = self.memory.project(patches)
        states, prefix = self._embed_queries(patches.shape[0]), []
        for layer, cross in self._layers():
            projected = layer.self_attention.project(states)
            prefix.append(projected[1:])
            states = layer.self_attention(states, projected, None)
            states = self._cross(layer, states, memory, cross)
        return ImageEncoding(states, tuple(prefix), memory)

    def encode_text(self, text: Text) -> Float[Tensor, "B D"]:
        """Encode text alone; returns the state of its first token, [CLS]."""
        layout = Layout.of(text.mask)
        words = layout.words(self._embed_text(text))
        bias = additive(text.mask[:, None, None], compute_dtype(words))
        for layer, last in self._until_last():
            if last:
                words = self._look(layer, layout.first(words), layer.self_attention.keys_values(words, layout), bias)
            else:
                words = layer.self_attention(words, layer.self_attention.project(words, layout), bias, layout)
            words = self._text_feed_forward(layer)(words)
        return words[:, 0]

    def fuse(self, text: Text, memory: Memory) -> Float[Tensor, "B Q D"]:
        """Let queries and text see each other, and the queries the image; row b pairs text b with memory b."""
        count = self.queries.shape[0]
        layout = Layout.of(text.mask, queries=count)
        queries, words = self._embed_queries(len(text.ids)), layout.words(self._embed_text(text))
        bias = additive(bidirectional(count, text.mask)[:, None, :1], compute_dtype(queries))
        for (layer, cross), (_, last) in zip(self._layers(), self._until_last(), strict=True):
            tokens = layout.join(queries, words)
            if last:
                queries = self._look(layer, queries, layer.self_attention.keys_values(tokens, layout), bias)
            else:
                projected = layer.self_attention.project(tokens, layout)
                queries, words = layout.split(layer.self_attention(tokens, projected, bias, layout))
                words = self._text_feed_forward(layer)(words)
            queries = self._cross(layer, queries, memory, cross)
        return queries

    def decode(self, text: Text, prefix: Prefix) -> Float[Tensor, "B T D"]:
        """Read text left to right after an image's queries; state t predicts token t + 1."""
        count, layout = self.queries.shape[0], Layout.of(text.mask)
        words = layout.words(self._embed_text(text))
        bias = additive(multimodal_causal(count, text.mask)[:, None, count:], compute_dtype(words))
        for (layer, _), (query_keys, query_values) in zip(self._layers(), prefix, strict=True):
            looking, keys, values = layer.self_attention.project(words, layout)
            seen = torch.cat([query_keys, keys], dim=2), torch.cat([query_values, values], dim=2)
            words = self._text_feed_forward(layer)(layer.self_attention(words, (looking, *seen), bias, layout))
        return layout.pad(words)

    def predict(self, states: Float[Tensor, "... D"]) -> Float[Tensor, "... W"]:
        """Logits over the vocabulary (W) from states of `decode`; raises `AbsentPartError` without a text half."""
        return self._text_half().predict(states)

    def joined_words(self) -> AbstractContextManager[None]:
        """Within, what several passes read of the word embeddings has one gradient: see `TextHalf.joined`."""
        return self._text_half().joined()

    def _layers(self) -> Iterator[tuple[Layer, int]]:
        """Each layer with the number of cross-attention layers before it: its place in a memory."""
        cross = 0
        for layer in self.layers:
            assert isinstance(layer, Layer)
            yield layer, cross
            cross += layer.cross_attention is not None

    def _until_last(self) -> Iterator[tuple[Layer, bool]]:
        """Each layer, and whether it is the last."""
        for number, (layer, _) in enumerate(self._layers()):
            yield layer, number == len(self.layers) - 1

    def _look(
        self, layer: Layer, states: Tensor, keys_values: tuple[Heads, Heads], bias: Tensor
    ) -> Float[Tensor, "B S D"]:
        """Self-attention of the few states that the last layer returns, over all that it has keys and values of."""
        looked: Tensor = layer.self_attention(states, (layer.self_attention.project_query(states), *keys_values), bias)
        return looked

    def _cross(self, layer: Layer, queries: Tensor, memory: Memory, cross: int) -> Float[Tensor, "B Q D"]:
        """The queries' own path through a layer, after self-attention."""
        if layer.cross_attention is not None:
            queries = layer.cross_attention(queries, memory, cross)
        transformed: Tensor = layer.query_feed_forward(queries)
        return transformed

    def _embed_queries(self, rows: int) -> Float[Tensor, "B Q D"]:
        embedded = self.norm(self.queries).expand(rows, -1, -1)
        return dropout(embedded, self.dropout, training=self.training)

    def _embed_text(self, text: Text) -> Float[Tensor, "B T D"]:
        return dropout(self.norm(self._text_half().embed(text.ids)), self.dropout, training=self.training)

    def _text_half(self) -> TextHalf:
        if self.text is None:
            raise AbsentPartError(
                "this bridge has no text half (word embeddings, text feed-forward, LM head), so it can only "
                "encode images; use the folder of a stage-1 run"
            )
        return self.text

    def _text_feed_forward(self, layer: Layer) -> FeedForward:
        self._text_half()
        assert layer.text_feed_forward is not None
        return layer.text_feed_forward

"""How the queries and words of rows lie side by side: padded to the longest text, or packed without the padding.

Everything but attention treats each token by itself, so it takes the tokens packed; attention takes them padded. A
packing has to be counted on the host: on a CPU that is free, elsewhere it would wait for the device, so there rows
stay padded.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isthmus.qformer.memory import COUNTS_FREELY

Tokens = Float[Tensor, "... D"]


class Layout(ABC):
    """Moves tokens between the two forms; Q queries stand before the T text tokens of each row, S = Q + T."""

    @staticmethod
    def of(mask: Bool[Tensor, "B T"], *, queries: int = 0) -> "Layout":
        """Packed where padding can be counted and there is some, padded elsewhere."""
        if mask.device.type in COUNTS_FREELY and not torch.compiler.is_compiling() and not mask.all():
            return _Packed(mask, queries)
        return _Padded(queries)

    @abstractmethod
    def words(self, padded: Float[Tensor, "B T D"]) -> Tokens:
        """The tokens of texts alone."""

    @abstractmethod
    def first(self, words: Tokens) -> Float[Tensor, "B 1 D"]:
        """The first token of each text."""

    @abstractmethod
    def join(self, queries: Float[Tensor, "B Q D"], words: Tokens) -> Tokens:
        """Queries and words as the tokens of one sequence per row."""

    @abstractmethod
    def split(self, tokens: Tokens) -> tuple[Float[Tensor, "B Q D"], Tokens]:
        """Undo `join`."""

    @abstractmethod
    def pad(self, tokens: Tokens) -> Float[Tensor, "B S D"]:
        """Tokens as attention takes them; what stands in padding is any finite number."""

    @abstractmethod
    def unpad(self, padded: Float[Tensor, "B S D"]) -> Tokens:
        """Undo `pad`."""


class _Padded(Layout):
    def __init__(self, queries: int) -> None:
        self._queries = queries

    def words(self, padded: Float[Tensor, "B T D"]) -> Tokens:
        return padded

    def first(self, words: Tokens) -> Float[Tensor, "B 1 D"]:
        return words[:, :1]

    def join(self, queries: Float[Tensor, "B Q D"], words: Tokens) -> Tokens:
        return torch.cat([queries, words], dim=1)

    def split(self, tokens: Tokens) -> tuple[Float[Tensor, "B Q D"], Tokens]:
        return tokens[:, : self._queries], tokens[:, self._queries :]

    def pad(self, tokens: Tokens) -> Float[Tensor, "B S D"]:
        return tokens

    def unpad(self, padded: Float[Tensor, "B S D"]) -> Tokens:
        return padded


class _Packed(Layout):
    """All queries first, then all words, row after row."""

    def __init__(self, mask: Bool[Tensor, "B T"], queries: int) -> None:
        rows, self._queries = len(mask), queries
        present = torch.cat([mask.new_ones(rows, queries), mask], dim=1)
        order = torch.arange(present.numel()).view(present.shape)
        self._text_places = mask.flatten().nonzero()[:, 0]
        self._places = torch.cat([order[:, :queries].flatten(), order[:, queries:][mask]])
        self._tokens = torch.zeros(present.numel(), dtype=torch.long)
        self._tokens[self._places] = torch.arange(len(self._places))
        self._present = present
        self._starts = mask.sum(dim=1).cumsum(0) - mask.sum(dim=1)

    def words(self, padded: Float[Tensor, "B T D"]) -> Tokens:
        return padded.flatten(0, 1).index_select(0, self._text_places)

    def first(self, words: Tokens) -> Float[Tensor, "B 1 D"]:
        return words.index_select(0, self._starts)[:, None]

    def join(self, queries: Float[Tensor, "B Q D"], words: Tokens) -> Tokens:
        return torch.cat([queries.flatten(0, 1), words])

    def split(self, tokens: Tokens) -> tuple[Float[Tensor, "B Q D"], Tokens]:
        count = len(self._present) * self._queries
        return tokens[:count].view(len(self._present), self._queries, -1), tokens[count:]

    def pad(self, tokens: Tokens) -> Float[Tensor, "B S D"]:
        padded: Tensor = _Pad.apply(tokens, self._tokens, self._places)
        return padded.view(*self._present.shape, -1)

    def unpad(self, padded: Float[Tensor, "B S D"]) -> Tokens:
        tokens: Tensor = _Unpad.apply(padded, self._places, (self._tokens, self._present))
        return tokens


class _Pad(torch.autograd.Function):
    """Padding repeats token 0. It is never looked at and never read, so its gradient is 0 and need not be added."""

    @staticmethod
    def forward(
        ctx: Any, tokens: Float[Tensor, "W D"], token_at: Int[Tensor, " P"], place_of: Int[Tensor, " W"]
    ) -> Float[Tensor, "P D"]:
        ctx.save_for_backward(place_of)
        return tokens.index_select(0, token_at)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].index_select(0, ctx.saved_tensors[0]), None, None


class _Unpad(torch.autograd.Function):
    """Padding is left out, so its gradient is 0."""

    @staticmethod
    def forward(
        ctx: Any, padded: Float[Tensor, "B S D"], place_of: Int[Tensor, " W"], back: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "W D"]:
        ctx.save_for_backward(*back)
        return padded.flatten(0, 1).index_select(0, place_of)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        token_at, present = ctx.saved_tensors
        padded = gradients[0].index_select(0, token_at).view(*present.shape, -1)
        return padded.masked_fill_(~present[..., None], 0), None, None

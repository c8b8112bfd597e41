"""The Q-Former's text half at its two ends: embeddings going in, the language-modelling head coming out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from isthmus.errors import AbsentPartError
from isthmus.records import BridgeSizes


class TextHalf(nn.Module):
    """Word and position embeddings, and BERT's MLM head with its decoder tied to the word embeddings, if it is there.

    The embeddings' LayerNorm is not here: the queries pass it too, so it stays when the text half is absent.
    """

    def __init__(self, sizes: BridgeSizes) -> None:
        super().__init__()
        self.words = nn.Embedding(sizes.vocabulary, sizes.width)
        self.positions = nn.Embedding(sizes.positions, sizes.width)
        self.head = LanguageHead(sizes) if sizes.lm_head else None
        self._joined: tuple[Tensor, Tensor] | None = None

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Within, the gradients of the word embeddings from all texts and the tied head are joined at the end.

        On a CPU those of texts are then a few rows each, which are added to the head's: a matrix of the vocabulary's
        size filled with zeros for every text that is read costs more than reading it.
        """
        if self.words.weight.device.type == "cpu" and not torch.compiler.is_compiling():
            self._joined = _Joined.apply(self.words.weight)
        try:
            yield
        finally:
            self._joined = None

    def embed(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Word plus position; positions start at 0 whatever stands before the text, as in the original."""
        if self._joined is None or torch.compiler.is_compiling():
            words = F.embedding(ids, self.words.weight)
        else:
            words = F.embedding(ids, self._joined[1], sparse=True)
        return words + self.positions.weight[: ids.shape[1]]

    def predict(self, states: Float[Tensor, "... D"]) -> Float[Tensor, "... W"]:
        """Logits over the vocabulary (W) for the token after each state; raises `AbsentPartError` without the head."""
        if self.head is None:
            raise AbsentPartError(
                "this bridge has no LM head, so its Q-Former can neither write nor be trained by ITG; fill it by "
                "init.lm_head, or use the folder of a stage-1 run"
            )
        weight = self.words.weight if self._joined is None else self._joined[0]
        return F.linear(self.head(states), weight, self.head.bias)


class LanguageHead(nn.Module):
    """BERT's MLM transform (dense, GELU, LayerNorm) and the decoder's bias; its weight is the word embeddings."""

    def __init__(self, sizes: BridgeSizes) -> None:
        super().__init__()
        self.dense = nn.Linear(sizes.width, sizes.width)
        self.norm = nn.LayerNorm(sizes.width, eps=sizes.norm_eps)
        self.bias = nn.Parameter(self.dense.weight.new_zeros(sizes.vocabulary))

    def forward(self, states: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Transform states before the tied decoder."""
        transformed: Tensor = self.norm(F.gelu(self.dense(states)))
        return transformed


class _Joined(torch.autograd.Function):
    """The same tensor twice: once for a head, with a gradient for every row, once for texts, with one for a few."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        return weight.view_as(weight), weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Tensor | None:
        of_head, of_texts = gradients
        if of_texts is None or of_head is None:
            return of_head if of_texts is None else of_texts.to_dense()
        return of_head.add_(of_texts)  # in place: a product just made it, and nothing else holds it

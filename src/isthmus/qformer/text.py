"""The Q-Former's text half at its two ends: embeddings going in, the language-modelling head coming out."""

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
        self.head_learns = False

    def embed(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Word plus position; positions start at 0 whatever stands before the text, as in the original.

        Where the tied head learns in every step (`head_learns`), its gradient of the words is there already, and on a
        CPU the few rows of this one are added to it: a matrix of the vocabulary's size, filled with zeros, for each
        text that is read costs more than reading it.
        """
        sparse = self.head_learns and ids.device.type == "cpu" and not torch.compiler.is_compiling()
        return F.embedding(ids, self.words.weight, sparse=sparse) + self.positions.weight[: ids.shape[1]]

    def predict(self, states: Float[Tensor, "... D"]) -> Float[Tensor, "... W"]:
        """Logits over the vocabulary (W) for the token after each state; raises `AbsentPartError` without the head."""
        if self.head is None:
            raise AbsentPartError(
                "this bridge has no LM head, so its Q-Former can neither write nor be trained by ITG; fill it by "
                "init.lm_head, or use the folder of a stage-1 run"
            )
        return F.linear(self.head(states), self.words.weight, self.head.bias)


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

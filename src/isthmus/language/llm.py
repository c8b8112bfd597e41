"""The contract of a language model: a soft prompt and text to a loss or to text, always frozen."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isthmus.frozen import FrozenModule
from isthmus.language.prompts import Prompt
from isthmus.records import Term, Text

_SCALE_SAMPLE = 8192


class FrozenLLM(FrozenModule, ABC):
    """A frozen language model that reads a soft prompt.

    `width` is L, the width of its embeddings; `address` says where the weights came from (`hub:name@revision`,
    `package:...`, `folder:...` or `file:...`). Gradients flow to the soft prompt and to nothing else.
    """

    width: int
    address: str
    prompt: Prompt

    @abstractmethod
    def tokenize(self, captions: Sequence[str]) -> Text:
        """Turn captions into labels, each closed by the end mark."""

    @abstractmethod
    def row_losses(
        self, soft_prompt: Float[Tensor, "B Q L"], target: Text
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Give each row's summed cross-entropy over its label tokens, and their count, both fp32."""

    @abstractmethod
    def generate(self, soft_prompt: Float[Tensor, "B Q L"], *, max_new_tokens: int) -> list[str]:
        """Write greedily until the end mark; the text comes stripped and without it."""

    @abstractmethod
    def embed(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T L"]:
        """Embed tokens as the model itself does, scaling included, without gradient."""

    @abstractmethod
    def vocabulary(self) -> int:
        """How many tokens can be embedded."""

    def loss(self, soft_prompt: Float[Tensor, "B Q L"], target: Text) -> Term:
        """Sum of the rows' losses; the weight is the number of label tokens."""
        sums, weights = self.row_losses(soft_prompt, target)
        return Term(sums.sum(), weights.sum())

    def embedding_scale(self) -> float:
        """Spread (standard deviation) of the embeddings, from at most 8,192 tokens spaced over the vocabulary.

        A projection that starts at this scale speaks as loudly as words do.
        """
        size = self.vocabulary()
        ids = torch.linspace(0, size - 1, min(size, _SCALE_SAMPLE), dtype=torch.float64).long()
        device = next(self.parameters()).device
        return self.embed(ids[None].to(device)).float().std().item()

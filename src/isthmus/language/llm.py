"""The contract of a language model: a soft prompt and text to a loss or to text, always frozen."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isthmus.errors import ConfigError
from isthmus.frozen import FrozenModule
from isthmus.language.prompts import Prompt
from isthmus.records import Term, Text

_SCALE_SAMPLE = 8192


@dataclass(frozen=True)
class Decoding:
    """How text is written. A setting that could do nothing beside the others is refused with a `ConfigError`.

    `temperature` 0 is greedy, or beam search with `num_beams` above 1; above 0 it samples, within the smallest set
    of tokens whose probability reaches `top_p`. Draws are keyed by (seed, position, token) and by nothing else: one
    picture, prompt and seed give one text, alone or in any batch. `length_penalty` divides a beam's log-probability
    by its length to that power (above 1 favours long texts). `repetition_penalty` is CTRL's, on written tokens.
    """

    max_new_tokens: int = 30
    min_new_tokens: int = 0
    num_beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_numbers()
        few, most = self.min_new_tokens, self.max_new_tokens
        wrong = {
            f"max_new_tokens is {most}: at least 1 is needed": most < 1,
            f"min_new_tokens is {few}: it lies between 0 and max_new_tokens ({most})": not 0 <= few <= most,
            f"num_beams is {self.num_beams}: at least 1 is needed": self.num_beams < 1,
            f"temperature is {self.temperature}: 0 is greedy, above 0 samples": not self.temperature >= 0,
            f"top_p is {self.top_p}: it lies above 0 and up to 1": not 0 < self.top_p <= 1,
            f"repetition_penalty is {self.repetition_penalty}: it must be above 0": not self.repetition_penalty > 0,
            "beams are searched, not sampled: leave out temperature or num_beams": (
                self.num_beams > 1 and self.temperature > 0
            ),
            "top_p only narrows sampling: give a temperature above 0": self.top_p < 1 and self.temperature == 0,
            "length_penalty only ranks beams: give num_beams above 1": self.length_penalty != 1 and self.num_beams == 1,
        }
        for sentence, applies in wrong.items():
            if applies:
                raise ConfigError(f"{sentence}.")

    def _check_numbers(self) -> None:
        for field in fields(self):
            value, whole = getattr(self, field.name), isinstance(field.default, int)
            if not isinstance(value, Integral if whole else Real):
                raise ConfigError(f"{field.name} is {value!r}: a {'whole ' if whole else ''}number is needed.")


class DecodingOptions(TypedDict, total=False):
    """The fields of `Decoding`, as a call takes them."""

    max_new_tokens: int
    min_new_tokens: int
    num_beams: int
    temperature: float
    top_p: float
    repetition_penalty: float
    length_penalty: float
    seed: int


@dataclass(frozen=True)
class Target(Text):
    """Captions as label tokens, each closed by the end mark; `mask` is True on labels.

    `given` is what an encoder reads after the soft prompt where that differs from row to row: a part of each caption
    (prefix LM), or a prompt of the row's own. Where a decoder alone reads such a prompt, `ids` hold it before the
    labels without a gap, and `seen` is True on both; without, the labels are all there is. `count` is how many labels
    there are: counted where the target is made, so that no device is asked for it later.
    """

    given: Text | None = None
    seen: Bool[Tensor, "B T"] | None = None
    count: int = -1

    def __post_init__(self) -> None:
        if self.count < 0:
            object.__setattr__(self, "count", int(self.mask.sum()))

    def to(self, device: torch.device | str) -> "Target":
        """Move every tensor."""
        return replace(
            self,
            ids=self.ids.to(device, non_blocking=True),
            mask=self.mask.to(device, non_blocking=True),
            given=None if self.given is None else self.given.to(device),
            seen=None if self.seen is None else self.seen.to(device, non_blocking=True),
        )


class FrozenLLM(FrozenModule, ABC):
    """A frozen language model that reads a soft prompt.

    `width` is L, the width of its embeddings; `address` says where the weights came from (`hub:name@revision`,
    `package:...`, `folder:...` or `file:...`). `prompt` has every field filled in. Gradients flow to the soft prompt
    and to nothing else. Where `dropout` is set, the model's own acts on the loss in training, and on nothing else.
    """

    width: int
    address: str
    prompt: Prompt
    splits_captions: bool = False

    @abstractmethod
    def tokenize(
        self, captions: Sequence[str], draws: Sequence[float] | None = None, *, prompts: Sequence[str] | None = None
    ) -> Target:
        """Turn captions into labels, each closed by the end mark.

        A model that `splits_captions` reads the first part of a caption and is asked for the rest; `draws`, one in
        (0, 1) for each caption, say where it is split. Without them, and for every other model, all of it is asked.
        `prompts[b]` stands after the soft prompt of row b in place of `Prompt.after`, and then nothing is split.
        """

    @abstractmethod
    def row_losses(
        self, soft_prompt: Float[Tensor, "B Q L"], target: Target
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Give each row's summed cross-entropy over its label tokens, and their count, both in fp32 at least."""

    @abstractmethod
    def generate(
        self, soft_prompt: Float[Tensor, "B Q L"], decoding: Decoding, *, prompts: Sequence[str] | None = None
    ) -> list[str]:
        """Write until the end mark, without dropout; the text comes stripped and without the mark.

        `prompts[b]` stands after the soft prompt of row b, in place of the trained `Prompt.after`.
        Raises `ConfigError` where a prompt is too long for the model, or cannot be written as asked.
        """

    @abstractmethod
    def embed(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T L"]:
        """Embed tokens as the model itself does, scaling included, without gradient."""

    @abstractmethod
    def vocabulary(self) -> int:
        """How many tokens can be embedded."""

    def loss(self, soft_prompt: Float[Tensor, "B Q L"], target: Target) -> Term:
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

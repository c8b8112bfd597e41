"""The records that cross walls between rooms, and the glossary of axes they are written in.

| axis | meaning | | axis | meaning |
|---|---|---|---|---|
| B | batch, image-text pairs on this process | | V | vision width |
| N | batch gathered over all processes | | D | Q-Former width |
| P | patches: the encoder's output tokens | | E | shared embedding of ITC |
| Q | queries | | L | language-model width |
| T | text tokens | | H | attention heads |

All records are frozen; a changed one is made with `dataclasses.replace`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class PictureBytes(Protocol):
    """A picture that is no file of its own, such as a row of a table; `str` names it in messages.

    It is read when asked for, and may be pickled into workers.
    """

    def read_bytes(self) -> bytes:
        """Read the encoded picture; raises OSError or DataError where it cannot be had."""


@dataclass(frozen=True)
class Example:
    """One picture and what is said of it, as a source gives it.

    `image` is a file or lies within another; `isthmus.data.image.open_image` reads both. `image_id` names the thing
    pictured: rows that share it are the same thing to the objectives. Where the picture was asked about, each of
    `captions` is the answer to the one of `questions` at its place; elsewhere there are no questions.
    """

    image: Path | PictureBytes
    image_id: str
    captions: tuple[str, ...]
    questions: tuple[str, ...] = ()


@runtime_checkable
class Source(Protocol):
    """A finite, indexable collection of examples; index i is the same example in every process."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@dataclass(frozen=True)
class Text:
    """Token ids padded on the right; `mask` is True where a token stands."""

    ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]

    def select(self, index: Int[Tensor, " R"]) -> "Text":
        """Take rows by index, in its order, repeats allowed."""
        return Text(self.ids[index], self.mask[index])

    def trimmed(self) -> "Text":
        """Leave out the padding that no row needs, as after a selection of short ones."""
        width = int(self.mask.sum(dim=1).max())
        return Text(self.ids[:, :width], self.mask[:, :width])

    def to(self, device: torch.device | str) -> "Text":
        """Move both tensors."""
        return Text(self.ids.to(device, non_blocking=True), self.mask.to(device, non_blocking=True))


@dataclass(frozen=True)
class Identity:
    """What makes two rows the same thing (DESIGN 5.7): int64 hashes of `image_id` and of the caption."""

    image: Int[Tensor, " B"]
    caption: Int[Tensor, " B"]

    def to(self, device: torch.device | str) -> "Identity":
        """Move both tensors."""
        return Identity(self.image.to(device, non_blocking=True), self.caption.to(device, non_blocking=True))


@dataclass(frozen=True)
class Batch:
    """One step's rows on this process.

    `vision` holds stored patches (B P V) or, when training from pixels, pixels (B 3 height width) that the
    frozen encoder turns into patches first. `captions` are normalised strings; `text` their Q-Former tokens.
    `index` is each row's position in its source, the key of every random choice made for it, and `epoch` how often it
    was drawn before: both say which view of its picture it has, so that it can be read again. Where pictures are asked
    about, `questions` are normalised too, `instruction` their Q-Former tokens, and `captions` the answers.
    `counted` is False on rows that only fill this rank up to the others' number of rows: they have no weight in any
    loss and are no candidates. It is None where every row of the step counts: on every rank of a step, or on none.
    """

    vision: Float[Tensor, "B ..."]
    captions: tuple[str, ...]
    text: Text
    identity: Identity
    index: Int[Tensor, " B"]
    questions: tuple[str, ...] | None = None
    instruction: Text | None = None
    counted: Bool[Tensor, " B"] | None = None
    epoch: Int[Tensor, " B"] | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def to(self, device: torch.device | str) -> "Batch":
        """Move every tensor; captions and questions stay strings."""
        return replace(
            self,
            vision=self.vision.to(device, non_blocking=True),
            text=self.text.to(device),
            identity=self.identity.to(device),
            index=self.index.to(device, non_blocking=True),
            instruction=None if self.instruction is None else self.instruction.to(device),
            counted=None if self.counted is None else self.counted.to(device, non_blocking=True),
            epoch=None if self.epoch is None else self.epoch.to(device, non_blocking=True),
        )


@runtime_checkable
class Batches(Protocol):
    """Batches of a run; `close` ends the processes that load them."""

    def __iter__(self) -> Iterator[Batch]: ...

    def close(self) -> None:
        """End what loads them; nothing is iterated after it."""


@dataclass(frozen=True)
class Term:
    """One loss term before division: the weighted sum, and the weight it is counted in (rows or tokens)."""

    sum: Float[Tensor, ""]
    weight: Float[Tensor, ""]

    def mean(self) -> Float[Tensor, ""]:
        """Sum over weight; 0/0 is 0."""
        return mean_over(self.sum, self.weight)


def mean_over(total: Float[Tensor, ""], weight: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Divide a sum by its weight; 0/0 is 0, without a branch on the device."""
    return total / torch.where(weight > 0, weight, torch.ones_like(weight))


@dataclass(frozen=True)
class Losses:
    """Named terms of one forward pass, for example itc, itm and itg."""

    terms: Mapping[str, Term]

    def __iter__(self) -> Iterator[tuple[str, Term]]:
        return iter(self.terms.items())

    def __getitem__(self, name: str) -> Term:
        return self.terms[name]


@dataclass(frozen=True)
class Step:
    """Where a run stands: the key of the step's random draws, and its share of the whole run in [0, 1)."""

    seed: int
    epoch: int
    progress: float


@dataclass(frozen=True)
class BridgeSizes:
    """Every size of a bridge; saved with it and enough to build it again.

    `text` says whether the text half (word and position embeddings, text feed-forwards) is there, and `lm_head`
    whether it has its LM head; `shared_width` is E of ITC (None: no ITC and ITM heads), and `temperature` says whether
    the heads have theirs; `language_width` is L of the projection (None: no projection). `patch_norm_eps` is the eps
    of the LayerNorm on the patches, kept as imported. What another library's file has no place for is absent here.
    """

    vision_width: int
    width: int = 768
    layers: int = 12
    heads: int = 12
    feed_forward_width: int = 3072
    queries: int = 32
    cross_frequency: int = 2
    vocabulary: int = 30_523
    positions: int = 512
    norm_eps: float = 1e-12
    patch_norm_eps: float = 1e-5
    text: bool = True
    shared_width: int | None = 256
    language_width: int | None = None
    lm_head: bool = True
    temperature: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "lm_head", self.lm_head and self.text)
        object.__setattr__(self, "temperature", self.temperature and self.shared_width is not None)


@dataclass(frozen=True)
class BridgeFile:
    """A model folder in memory: what was saved, with no module built yet.

    `tensors` are the bridge's own, by name; `provenance` is JSON: stage, towers with addresses and
    fingerprints, prompt, and what the run measured.
    """

    sizes: BridgeSizes
    tensors: dict[str, Tensor]
    provenance: dict[str, Any]

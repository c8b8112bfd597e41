"""Rows beside everyone's, for ITC and ITM: what they are, their embeddings and cosines, and whom they are paired with.

The rows may be a whole batch, or a part of one that is too large to be compared at once (`train/chunked.py`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isthmus import distributed
from isthmus.objectives.identity import IdentityPolicy, same_thing
from isthmus.objectives.itc import image_to_text, text_to_image
from isthmus.objectives.itm import Anchors
from isthmus.objectives.negatives import Negatives
from isthmus.records import Batch, Identity, Term, Text


@dataclass(frozen=True)
class Rows:
    """What is known of rows before anything is computed: what they are, their positions in their source, which count.

    `counted` is None where all do.
    """

    identity: Identity
    index: Int[Tensor, " B"]
    counted: Bool[Tensor, " B"] | None

    @staticmethod
    def of(batch: Batch) -> "Rows":
        """Those of a batch."""
        return Rows(batch.identity, batch.index, batch.counted)

    def gathered(self) -> "Rows":
        """Those of all ranks, in rank order; one collective."""
        counted = [] if self.counted is None else [self.counted.long()]
        image, caption, index, *rest = distributed.gather_together(
            self.identity.image, self.identity.caption, self.index, *counted
        )
        return Rows(Identity(image, caption), index, rest[0].bool() if rest else None)

    def numbers(self) -> Int[Tensor, " B"]:
        """How many rows that count come before each."""
        if self.counted is None:
            return torch.arange(len(self.index), device=self.index.device)
        return self.counted.cumsum(0) - self.counted.long()

    def select(self, index: slice) -> "Rows":
        """Some of them."""
        identity = Identity(self.identity.image[index], self.identity.caption[index])
        return Rows(identity, self.index[index], None if self.counted is None else self.counted[index])


@dataclass(frozen=True)
class Pairs:
    """Rows beside everyone's, as far as is known before anything is computed.

    `same`: they are the same thing. `counted`: both count (None: all do). `anchors` and `candidates` are the rows'
    positions in their source; anchor 0 is candidate `offset`. `number`: how many rows that count come before an anchor.
    """

    same: Bool[Tensor, "B N"]
    counted: Bool[Tensor, "B N"] | None
    anchors: Int[Tensor, " B"]
    candidates: Int[Tensor, " N"]
    number: Int[Tensor, " B"]
    offset: int

    @staticmethod
    def between(rows: Rows, everyone: Rows, *, offset: int, policy: IdentityPolicy) -> "Pairs":
        """Compare what rows are; they stand in everyone's from `offset` on."""
        same = same_thing(rows.identity, everyone.identity, offset=offset, policy=policy)
        number, counted = everyone.numbers()[offset : offset + len(rows.index)], None
        if rows.counted is not None and everyone.counted is not None:
            counted = rows.counted[:, None] & everyone.counted
        return Pairs(same, counted, rows.index, everyone.index, number, offset)

    @property
    def barred(self) -> Bool[Tensor, "B N"]:
        """Which are never negatives of each other."""
        return self.same if self.counted is None else self.same | ~self.counted


@dataclass(frozen=True)
class Embeddings:
    """ITC's embeddings of images, one for each query, and of texts, L2-normalised."""

    image: Float[Tensor, "B Q E"]
    text: Float[Tensor, "B E"]

    @property
    def both(self) -> tuple[Float[Tensor, "B Q E"], Float[Tensor, "B E"]]:
        """Images, then texts."""
        return self.image, self.text

    def gathered(self, *, exact: bool) -> "Embeddings":
        """Those of all ranks, in rank order; see `distributed.gather` for what gradient passes."""
        return Embeddings(distributed.gather(self.image, exact=exact), distributed.gather(self.text, exact=exact))


@dataclass(frozen=True)
class Contrast:
    """Cosines of rows with everyone's, both directions."""

    image_text: Float[Tensor, "B N"]
    text_image: Float[Tensor, "B N"]

    @staticmethod
    def between(rows: Embeddings, everyone: Embeddings) -> "Contrast":
        """Compare each of the rows with everyone's."""
        return Contrast(image_to_text(rows.image, everyone.text), text_to_image(rows.text, everyone.image))


@dataclass(frozen=True)
class Others:
    """What ITM pairs rows with, one image and one caption for each of `anchors`, which are among the rows.

    `images.index` counts the rows' own images and then `patches`, which are others'. `captions.index` is the place in
    `texts`: the rows' own, and then others'.
    """

    anchors: Anchors
    patches: Float[Tensor, "F P V"]
    texts: Text
    images: Negatives
    captions: Negatives


@dataclass(frozen=True)
class Given:
    """What rows are told of the contrastive batch that they are a part of, since they cannot know it themselves.

    `itc` is their share of its loss, without a graph; `gradient` that loss's with respect to their embeddings, and
    `of_temperature` their share of the one with respect to the temperature.
    """

    itc: Term
    gradient: Embeddings
    of_temperature: Float[Tensor, ""]
    others: Others

    def negatives(self) -> Others:
        """What ITM pairs the rows with."""
        return self.others

    def share(self, own: Embeddings, temperature: Float[Tensor, ""]) -> Term:
        """ITC's term with its value and, at these embeddings, its gradient."""
        parts = (own.image * self.gradient.image).sum(), (own.text * self.gradient.text).sum()
        linear = parts[0] + parts[1] + temperature * self.of_temperature
        return Term(self.itc.sum + (linear - linear.detach()), self.itc.weight)

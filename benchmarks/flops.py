"""How much arithmetic a step takes at least, and how much the original spends: matrix products alone, 2 per
multiplication and addition.

Letters as in the counts of a step: B rows, T image tokens, Q queries, L text tokens with [CLS] and [SEP], P padded
text. A backward pass costs twice its forward, so that a step is three forwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A Q-Former and what it reads; the defaults are BLIP-2's before EVA ViT-g."""

    width: int = 768
    feed_forward: int = 3072
    image_width: int = 1408
    image_tokens: int = 257
    queries: int = 32
    layers: int = 12
    cross_frequency: int = 2
    vocabulary: int = 30_523
    shared_width: int = 256
    padded: int = 32

    @property
    def crosses(self) -> int:
        """Layers with cross-attention."""
        return -(-self.layers // self.cross_frequency)

    def trunk(self, sequences: float, tokens: float, keys: float, layers: int | None = None) -> float:
        """Self-attention and feed-forward: n sequences of s tokens that see k keys."""
        d, f = self.width, self.feed_forward
        count = self.layers if layers is None else layers
        return count * sequences * tokens * (8 * d * d + 4 * d * f + 4 * keys * d)

    def cross(self, sequences: float) -> float:
        """Cross-attention without the image's keys and values: query and output projection, scores and values."""
        d = self.width
        return self.crosses * sequences * self.queries * (4 * d * d + 4 * self.image_tokens * d)

    def image_memory(self, images: float) -> float:
        """Keys and values of images in every cross-attention layer."""
        return self.crosses * images * self.image_tokens * 4 * self.image_width * self.width

    def heads(self, batch: int, *, pooled: bool) -> float:
        """Projections into the shared embedding, ITM's head and the table of cosines, both ways."""
        d, q, p = self.width, self.queries, self.shared_width
        itm = 3 * batch * (1 if pooled else q) * 4 * d
        return batch * q * 2 * d * p + batch * 2 * d * p + itm + 4 * batch * batch * q * p

    def words(self, tokens: float) -> float:
        """The LM head: its transform and the vocabulary."""
        return tokens * (2 * self.width**2 + 2 * self.width * self.vocabulary)


def lavis_stage1(batch: int, shape: Shape = Shape()) -> float:
    """FLOPs of one step of the original: text padded, image keys and values three times more for ITM."""
    q, p = shape.queries, shape.padded
    forward = (
        shape.trunk(batch, q, q)
        + shape.cross(batch)
        + shape.image_memory(batch)
        + shape.trunk(batch, p, p)
        + shape.trunk(3 * batch, q + p, q + p)
        + shape.cross(3 * batch)
        + shape.image_memory(3 * batch)
        + shape.trunk(batch, p, q + p)
        + shape.words(batch * p)
        + shape.heads(batch, pooled=False)
    )
    return 3 * forward


def minimal_stage1(lengths: Sequence[int], shape: Shape = Shape()) -> float:
    """FLOPs of one step of the same mathematics without waste, for texts of these lengths, one a row.

    A negative text is as long as the mean of the batch.
    """
    d, f, q, batch = shape.width, shape.feed_forward, shape.queries, len(lengths)
    mean = sum(lengths) / batch
    below, memory = shape.layers - 1, shape.image_memory(batch)
    image = shape.trunk(batch, q, q) + memory + shape.cross(batch)
    forward: float = image + shape.heads(batch, pooled=True)
    for length in lengths:
        forward += shape.trunk(1, length, length, below)
        forward += length * 4 * d * d + 4 * d * d + 4 * d * f + 4 * length * d
        forward += _generation(shape, length - 1)
    for seen in (*lengths, *lengths, *([mean] * batch)):
        joint = q + seen
        forward += shape.trunk(1, joint, joint, below)
        forward += joint * 4 * d * d + q * (4 * d * d + 4 * d * f + 4 * joint * d)
    forward += shape.cross(3 * batch)
    return 3 * forward - memory


def _generation(shape: Shape, tokens: int) -> float:
    """ITG of one text: every token sees all queries and the tokens before it, and predicts."""
    seen = shape.queries + (tokens + 1) / 2
    return shape.trunk(1, tokens, seen) + shape.words(tokens)


def minimal_itm(pairs: int, length: int, shape: Shape = Shape()) -> float:
    """FLOPs of scoring one image with so many texts: its memory once, the last layer for the queries alone."""
    d, f, q = shape.width, shape.feed_forward, shape.queries
    joint = q + length
    last = joint * 4 * d * d + q * (4 * d * d + 4 * d * f + 4 * joint * d)
    rows = shape.trunk(pairs, joint, joint, shape.layers - 1) + pairs * last
    return rows + shape.cross(pairs) + shape.image_memory(1)


def minimal_stage2(lengths: Sequence[int], language: "Language", shape: Shape = Shape()) -> float:
    """FLOPs of one stage-2 step: the image pass three times but for its memory, the frozen model twice.

    A frozen layer has no gradient of its weights. The last label is no input, and logits stand at labels alone.
    """
    batch, q = len(lengths), shape.queries
    memory, projection = shape.image_memory(batch), batch * q * 2 * shape.width * language.width
    trained = shape.trunk(batch, q, q) + shape.cross(batch) + projection
    frozen = sum(language.forward(q + length - 1, length) for length in lengths)
    return 3 * trained + 2 * memory + 2 * frozen


@dataclass(frozen=True)
class Language:
    """A decoder-only language model; the defaults are OPT-125m's."""

    width: int = 768
    feed_forward: int = 3072
    layers: int = 12
    vocabulary: int = 50_272

    def forward(self, tokens: int, labels: int) -> float:
        """One sequence, attention in a triangle, and logits at so many positions."""
        d, f = self.width, self.feed_forward
        trunk = self.layers * tokens * (8 * d * d + 4 * d * f + 2 * (tokens + 1) * d)
        return trunk + labels * 2 * d * self.vocabulary

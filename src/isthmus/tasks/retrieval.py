"""Image-text retrieval by ITC: embed once, compare in pieces, count recall and ranks both ways (BLIP-2 §4.4)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isthmus.data.collate import caption_identity
from isthmus.data.text import normalise
from isthmus.fingerprint import text_identity
from isthmus.models.bridge import Bridge
from isthmus.objectives.identity import same_thing
from isthmus.objectives.itc import image_to_text, text_to_image
from isthmus.records import Batch, Identity, Source, Text

Direction = Literal["text_to_image", "image_to_text"]
DIRECTIONS: tuple[Direction, ...] = ("text_to_image", "image_to_text")
KS = (1, 5, 10)
_QUERIES, _TEXTS = 32, 256


@dataclass(frozen=True)
class Embedded:
    """I pictures and their T texts in ITC's shared space, on the host, in the source's order.

    `owner` is each text's picture, in ascending order; `identity` is that of the texts: the `image_id` of their
    pictures and their captions' own. Memory of all methods but `similarity` and `same` grows with I + T only.
    """

    images: Float[Tensor, "I Q E"]
    texts: Float[Tensor, "T E"]
    words: Text
    captions: tuple[str, ...]
    owner: Int[Tensor, " T"]
    identity: Identity

    def pieces(self, direction: Direction) -> Iterator[tuple[Float[Tensor, "R C"], Bool[Tensor, "R C"]]]:
        """Some queries (rows) after the other: their cosine with every candidate, and which candidates are right."""
        ask = self._by_text if direction == "text_to_image" else self._by_image
        for start in range(0, self.count(direction), _QUERIES):
            yield ask(start, min(start + _QUERIES, self.count(direction)))

    def count(self, direction: Direction) -> int:
        """How many queries there are."""
        return len(self.texts) if direction == "text_to_image" else len(self.images)

    def pictured(self, direction: Direction) -> Int[Tensor, " N"]:
        """The identity of each query's picture: queries that share it stand or fall together."""
        if direction == "text_to_image":
            return self.identity.image
        return self.identity.image.new_zeros(len(self.images)).scatter(0, self.owner, self.identity.image)

    def similarity(self) -> Float[Tensor, "I T"]:
        """Cosine of each image (row) with each text (column), the best of the image's queries."""
        return torch.cat([cosine for cosine, _ in self.pieces("image_to_text")])

    def same(self) -> Bool[Tensor, "I T"]:
        """True where a row's picture and a column's text are the same thing (DESIGN 5.7)."""
        return torch.cat([right for _, right in self.pieces("image_to_text")])

    def _by_text(self, start: int, stop: int) -> tuple[Float[Tensor, "R I"], Bool[Tensor, "R I"]]:
        same = self._same(start, stop)
        right = torch.zeros(stop - start, len(self.images)).index_add(1, self.owner, same.float()) > 0
        return text_to_image(self.texts[start:stop], self.images), right

    def _by_image(self, start: int, stop: int) -> tuple[Float[Tensor, "R T"], Bool[Tensor, "R T"]]:
        first, last = torch.searchsorted(self.owner, torch.tensor([start, stop])).tolist()
        rows = self.owner[first:last] - start
        same = self._same(first, last)
        right = torch.zeros(stop - start, len(self.texts)).index_add(0, rows, same.float()) > 0
        return image_to_text(self.images[start:stop], self.texts), right

    def _same(self, start: int, stop: int) -> Bool[Tensor, "R T"]:
        """True where two texts are of the same thing; a picture is what any of its texts is."""
        rows = Identity(self.identity.image[start:stop], self.identity.caption[start:stop])
        return same_thing(rows, self.identity, offset=start, policy="image_or_caption")


@torch.inference_mode()
def embed(
    bridge: Bridge,
    batches: Iterable[Batch],
    source: Source,
    *,
    tokenize: Callable[[Sequence[str]], Text],
    device: torch.device,
) -> Embedded:
    """Embed every picture of an evaluation source, and every caption of every picture."""
    images: list[Tensor] = []
    captions: list[str] = []
    owner: list[int] = []
    named: list[int] = []
    for batch in batches:
        states = bridge.qformer.encode_image(batch.vision.to(device, non_blocking=True)).states
        for index in batch.index.tolist():
            example, picture = source[index], owner[-1] + 1 if owner else 0
            captions.extend(normalise(caption) for caption in example.captions)
            owner.extend([picture] * len(example.captions))
            named.extend([text_identity(example.image_id)] * len(example.captions))
        images.append(_precisely(bridge.image_embeddings, states))
    words = tokenize(captions)
    return Embedded(
        images=torch.cat(images),
        texts=_embed_texts(bridge, words, device),
        words=words,
        captions=tuple(captions),
        owner=torch.tensor(owner),
        identity=Identity(torch.tensor(named), caption_identity(words)),
    )


def _embed_texts(bridge: Bridge, words: Text, device: torch.device) -> Float[Tensor, "T E"]:
    """Encode texts of like length together, so that little padding is computed; in the order they came in."""
    order = words.mask.sum(dim=1).argsort(stable=True)
    pieces = [words.select(rows).trimmed().to(device) for rows in torch.split(order, _TEXTS)]
    encoded = [_precisely(bridge.text_embeddings, bridge.qformer.encode_text(piece)) for piece in pieces]
    return torch.cat(encoded)[order.argsort()]


def _precisely(embed: Callable[[Tensor], Tensor], states: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Embeddings in fp32, on the host: bf16's steps would make ties, and are large over a small temperature."""
    with torch.autocast(states.device.type, enabled=False):
        return embed(states.to(torch.promote_types(states.dtype, torch.float32))).float().cpu()


def ranks(similarity: Float[Tensor, "R C"], right: Bool[Tensor, "R C"]) -> Int[Tensor, " R"]:
    """The place of each row's best right candidate, from 1: how many wrong ones stand before it, and one.

    A wrong candidate with the same score as the best right one stands before it, so that equal scores earn nothing;
    neither do scores that are no numbers.
    """
    best = similarity.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    return (~(similarity < best) & ~right).sum(dim=1) + 1


def itc_ranks(embedded: Embedded, direction: Direction) -> Int[Tensor, " N"]:
    """The place of each query's best right candidate by ITC alone; same-thing rows count as right."""
    return torch.cat([ranks(cosine, right) for cosine, right in embedded.pieces(direction)])


def recalls(places: Int[Tensor, " N"]) -> dict[str, float]:
    """R@1, R@5 and R@10 (per cent of queries with a right candidate among the first K), mean and median place."""
    exact = places.double()
    found = {f"R@{k}": 100 * float((places <= k).double().mean()) for k in KS}
    return {**found, "mean_rank": float(exact.mean()), "median_rank": float(exact.quantile(0.5))}

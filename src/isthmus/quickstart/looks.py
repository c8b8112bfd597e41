"""Where the queries look: cross-attention over a picture, from the Q-Former's plain definition (`forward`)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.models.bridge import Bridge
from isthmus.tasks.retrieval import Embedded

_SHOWN = 3


@dataclass(frozen=True)
class Gaze:
    """One query's attention over the patches, row by row; it sums to 1."""

    query: int
    attention: list[float]


@dataclass(frozen=True)
class Looked:
    """A picture of `side` x `side` patches and where some queries look; `average` is over all queries.

    The first of `gazes` is the query that wins ITC's maximum for the right name, at `cosine`.
    """

    picture: str
    name: str
    side: int
    cosine: float
    average: list[float]
    gazes: list[Gaze]


@torch.inference_mode()
def queries_look(
    bridge: Bridge,
    patches: Float[Tensor, "B P V"],
    embedded: Embedded,
    rows: Mapping[int, str],
) -> list[Looked]:
    """Look with the queries at some rows of a set, each with its picture's name; `patches` are in the same order.

    The attention is that of the last layer with cross-attention, the mean of its heads. Raises ValueError for patches
    that make no square.
    """
    maps = bridge.qformer(None, None, patches, look=True).looks[-1].float().mean(dim=1).cpu()
    return [_looked(embedded, row, picture, look) for (row, picture), look in zip(rows.items(), maps, strict=True)]


def most_different(attention: Float[Tensor, "Q P"], first: int, *, count: int) -> list[int]:
    """Queries whose maps differ most, beginning with a given one.

    Each further one has the largest distance (total variation) to the nearest of those before it.
    """
    chosen = [first]
    while len(chosen) < min(count, len(attention)):
        away = (attention[:, None] - attention[chosen]).abs().sum(dim=-1).amin(dim=1)
        away[chosen] = -1
        chosen.append(int(away.argmax()))
    return chosen


def _looked(embedded: Embedded, image: int, picture: str, attention: Float[Tensor, "Q P"]) -> Looked:
    side = math.isqrt(attention.shape[1])
    if side**2 != attention.shape[1]:
        raise ValueError(f"{attention.shape[1]} patches make no square, so they cannot be laid over a picture")
    text = int((embedded.owner == image).nonzero()[0, 0])
    cosine = embedded.images[image] @ embedded.texts[text]
    queries = most_different(attention, int(cosine.argmax()), count=_SHOWN)
    gazes = [Gaze(query, _short(attention[query])) for query in queries]
    return Looked(picture, embedded.captions[text], side, float(cosine.max()), _short(attention.mean(dim=0)), gazes)


def _short(numbers: Float[Tensor, " P"]) -> list[float]:
    return [round(number, 5) for number in numbers.tolist()]

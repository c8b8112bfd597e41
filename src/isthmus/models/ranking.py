"""Re-ranking: ITC's cosine picks a shortlist of candidates, ITM's look at each pair puts it in order (DESIGN 5.14).

The two scores are added on one scale, that of log-probabilities: cosine over temperature, plus a weight times ITM's
log-odds. The original adds the raw logit of a match to the cosine; a cosine spans 0.3 and a logit several, so there
ITM overrules ITC (LAVIS, `compute_sim_matrix`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isthmus.errors import AbsentPartError
from isthmus.models.bridge import NO_TEMPERATURE, Bridge
from isthmus.qformer.memory import Memory
from isthmus.records import Text

Rule = Literal["log_odds", "original"]
_ROWS = 256


@dataclass(frozen=True)
class Ranking:
    """How a shortlist is put in order.

    `weight` is λ, what ITM's log-odds count for beside cosine over temperature; the rule `original` has no weight.
    `shortlist` is how many candidates of a query are looked at.
    """

    weight: float = 0.25
    rule: Rule = "log_odds"
    shortlist: int = 16


def match_logits(bridge: Bridge, memory: Memory, texts: Text) -> Float[Tensor, "R 2"]:
    """ITM's logits of R pairs: row r is image r of the memory with text r. `softmax` gives the chance of a match."""
    return bridge.match_logits(bridge.qformer.fuse(texts, memory))


def combine(
    cosine: Float[Tensor, "..."], itm_logits: Float[Tensor, "... 2"], *, temperature: float | None, ranking: Ranking
) -> Float[Tensor, "..."]:
    """One score of pairs from ITC's cosine and ITM's logits (0: no match, 1: match), by the ranking's rule.

    Raises `AbsentPartError` as `itc_part` does.
    """
    alone = itc_part(cosine, temperature=temperature, ranking=ranking)
    if ranking.rule == "original":
        return alone + itm_logits[..., 1]
    return alone + ranking.weight * (itm_logits[..., 1] - itm_logits[..., 0])


def itc_part(cosine: Float[Tensor, "..."], *, temperature: float | None, ranking: Ranking) -> Float[Tensor, "..."]:
    """What ITC alone adds to a score: the cosine over temperature, or as it is in the original's sum.

    Raises `AbsentPartError` where the temperature is needed and the bridge has none.
    """
    if ranking.rule == "original":
        return cosine
    if temperature is None:
        raise AbsentPartError(NO_TEMPERATURE)
    return cosine / temperature


def shortlist(cosine: Float[Tensor, "R C"], size: int) -> Int[Tensor, "R K"]:
    """The K best candidates of each row, best first; all of them where there are fewer."""
    return cosine.topk(min(size, cosine.shape[1]), dim=1).indices


def rerank(
    cosine: Float[Tensor, "R C"],
    candidates: Int[Tensor, "R K"],
    itm_logits: Float[Tensor, "R K 2"],
    *,
    temperature: float | None,
    ranking: Ranking,
) -> Float[Tensor, "R C"]:
    """Scores (fp64) that put each row's shortlist in its new order, before all that is not on it.

    What is not on the shortlist keeps its cosine; the shortlist stands above it, by `combine`. Only the order within
    a row means something.
    """
    score = combine(
        cosine.gather(1, candidates).double(), itm_logits.double(), temperature=temperature, ranking=ranking
    )
    above = cosine.double().amax(dim=1, keepdim=True) + 1
    return cosine.double().scatter(1, candidates, above + score - score.amin(dim=1, keepdim=True))


@torch.inference_mode()
def match_pairs(
    bridge: Bridge, patches: Iterable[Float[Tensor, "_ P V"]], texts: Text, pairs: Int[Tensor, "S 2"]
) -> Float[Tensor, "S 2"]:
    """ITM's logits (fp32, on the host) of pairs (image, text), any image with any text.

    `patches` come in pieces, image after image from image 0; each image's memory is made once and selected for all
    of its pairs, so no more than one piece and 256 pairs are held at a time.
    """
    found, start = torch.empty(len(pairs), 2), 0
    lengths = texts.mask.sum(dim=1)
    for piece in patches:
        memory, inside = bridge.qformer.memory.project(piece), _inside(pairs[:, 0], start, len(piece))
        for rows in _pieces(inside, lengths[pairs[inside, 1]]):
            image, text = (pairs[rows] - torch.tensor([start, 0])).T
            words = texts.select(text).trimmed().to(piece.device)
            found[rows] = match_logits(bridge, memory.select(image.to(piece.device)), words).float().cpu()
        start += len(piece)
    return found


def _inside(image: Int[Tensor, " S"], start: int, count: int) -> Int[Tensor, " R"]:
    inside: Bool[Tensor, " S"] = (image >= start) & (image < start + count)
    return inside.nonzero()[:, 0]


def _pieces(rows: Int[Tensor, " R"], lengths: Int[Tensor, " R"]) -> Iterator[Int[Tensor, " r"]]:
    """Rows in pieces of like length, so that little of what is computed is padding."""
    ordered = rows[lengths.argsort(stable=True)]
    yield from (piece for piece in torch.split(ordered, _ROWS) if len(piece))

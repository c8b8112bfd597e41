"""Retrieval re-ranked by ITM: a look at every query's shortlist, both ways, and the choice of its weight."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isthmus.models.bridge import Bridge
from isthmus.models.ranking import Ranking, match_pairs, rerank, shortlist
from isthmus.tasks.retrieval import DIRECTIONS, Direction, Embedded, ranks

GRID = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Shortlists:
    """Each direction's shortlists: the K candidates of every query, and ITM's logits of the pairs."""

    candidates: Mapping[Direction, Int[Tensor, "_ _"]]
    logits: Mapping[Direction, Float[Tensor, "_ _ 2"]]
    temperature: float | None

    def places(self, embedded: Embedded, direction: Direction, rankings: Sequence[Ranking]) -> list[Int[Tensor, " N"]]:
        """The place of each query's best right candidate, from 1, after each of some re-rankings."""
        found: list[list[Tensor]] = [[] for _ in rankings]
        start = 0
        for cosine, right in embedded.pieces(direction):
            rows = slice(start, start + len(cosine))
            candidates, logits = self.candidates[direction][rows], self.logits[direction][rows]
            for places, ranking in zip(found, rankings, strict=True):
                scores = rerank(cosine, candidates, logits, temperature=self.temperature, ranking=ranking)
                places.append(ranks(scores, right))
            start += len(cosine)
        return [torch.cat(places) for places in found]


@torch.inference_mode()
def match_shortlists(
    bridge: Bridge, patches: Iterable[Float[Tensor, "_ P V"]], embedded: Embedded, *, size: int
) -> Shortlists:
    """Let ITM look at the pairs of all shortlists, each pair once; `patches` come in the order of `embedded`."""
    candidates, pairs = {}, []
    for direction in DIRECTIONS:
        best = torch.cat([shortlist(cosine, size) for cosine, _ in embedded.pieces(direction)])
        asked = torch.arange(len(best))[:, None].expand_as(best)
        image, text = (best, asked) if direction == "text_to_image" else (asked, best)
        candidates[direction] = best
        pairs.append(torch.stack([image.flatten(), text.flatten()], dim=1))
    once, place = torch.unique(torch.cat(pairs), dim=0, return_inverse=True)
    logits = match_pairs(bridge, patches, embedded.words, once)[place]
    parts = torch.split(logits, [len(pair) for pair in pairs])
    shaped = {way: part.view(*candidates[way].shape, 2) for way, part in zip(DIRECTIONS, parts, strict=True)}
    return Shortlists(candidates, shaped, bridge.need_heads().known_temperature)


def choose_weight(grid: Mapping[float, Mapping[str, float]]) -> float:
    """The weight λ whose text → image recalls have the highest R@1; then the highest R@5; then the smallest λ."""
    return max(grid, key=lambda weight: (grid[weight]["R@1"], grid[weight]["R@5"], -weight))

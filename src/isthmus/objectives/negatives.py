"""Hard negatives for ITM: one other image for each text, one other text for each image (BLIP-2 §3.2, ITM).

A negative is the arg-max of log-weight plus Gumbel noise, which samples in proportion to the weight; the noise is
keyed by (seed, epoch, direction, anchor, candidate), so the draw needs no host sync and does not depend on how many
ranks share the batch (DESIGN 5.8). With hard negatives from the first step ITM sits at its class prior for hundreds
of steps (docs/log.md), so a run starts with uniform ones.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isthmus.objectives.itm import Anchors
from isthmus.randomness import gumbel

IMAGES_FOR_TEXT, TEXTS_FOR_IMAGE = 0, 1


@dataclass(frozen=True)
class Negatives:
    """For each local anchor the gathered row drawn for it; weight 0 where it had no candidate but the same thing."""

    index: Int[Tensor, " B"]
    weight: Float[Tensor, " B"]

    def at(self, anchors: Anchors) -> "Negatives":
        """Those of some anchors, where these count."""
        return Negatives(self.index[anchors.index], self.weight[anchors.index] * anchors.weight)


@dataclass(frozen=True)
class NegativeKey:
    """The key of a draw: run seed, epoch, and which direction is drawn."""

    seed: int
    epoch: int
    direction: int


def draw_negatives(
    log_weight: Float[Tensor, "B N"],
    *,
    same: Bool[Tensor, "B N"],
    anchors: Int[Tensor, " B"],
    candidates: Int[Tensor, " N"],
    key: NegativeKey,
    offset: int = 0,
) -> Negatives:
    """Draw one gathered row per anchor, never one that is the same thing.

    `log_weight` is similarity over temperature for hard negatives and zeros for uniform ones; `anchors` and
    `candidates` are the rows' positions in their source, the keys of the noise; anchor 0 is gathered row `offset`. An
    anchor without an admissible candidate keeps its own row with weight 0. `same` may bar other pairs too, such as
    rows that do not count.
    """
    noise = gumbel(key.seed, key.epoch, key.direction, anchors[:, None], candidates[None, :])
    score = (log_weight.detach().float() + noise).masked_fill(same, -torch.inf)
    drawable = ~same.all(dim=1)
    own = torch.arange(offset, offset + len(anchors), device=anchors.device)
    return Negatives(torch.where(drawable, score.argmax(dim=1), own), drawable.float())

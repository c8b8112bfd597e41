"""Which rows of a gathered batch are the same thing (DESIGN 5.7)."""

from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from isthmus.records import Identity

IdentityPolicy = Literal["image_or_caption", "image", "off"]


def same_thing(rows: Identity, everyone: Identity, *, offset: int, policy: IdentityPolicy) -> Bool[Tensor, "B N"]:
    """True where local row b and gathered row n are the same thing; `offset` is row 0's place in the gathered batch.

    `image_or_caption`: they share `image_id` or have equal captions; `image`: the first only; `off`: a row is the
    same thing as itself only, as in the original. A row always is the same thing as itself.
    """
    count, total = len(rows.image), len(everyone.image)
    own = torch.arange(count, device=rows.image.device) + offset
    same = own[:, None] == torch.arange(total, device=rows.image.device)
    if policy == "off":
        return same
    same = same | (rows.image[:, None] == everyone.image)
    if policy == "image_or_caption":
        same = same | (rows.caption[:, None] == everyone.caption)
    return same

"""Dropout that draws two bytes and keeps one byte an element.

On a CPU torch's own takes four times as long (docs/log.md), and keeps its mask in the dtype of what is dropped. Other
devices have a fused one.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional as F

_STEPS = 2**16
_DRAWS_A_WORD = 4
_WORDS = torch.iinfo(torch.int64)


def dropout(states: Float[Tensor, "..."], share: float, *, training: bool) -> Float[Tensor, "..."]:
    """Set a `share` of the elements to 0 and scale the others up, so that the mean stays; in training only.

    The share is rounded to 1/65,536 on a CPU. Draws come from torch's global generator.
    """
    if not training or share == 0.0:
        return states
    if states.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(states, share)
    dropped: Tensor = _Dropout.apply(states, share)
    return dropped


def draw_kept(shape: torch.Size, share: float) -> tuple[Bool[Tensor, "..."], float]:
    """Draw on the CPU which elements stay, and what they are scaled by."""
    threshold = round(share * _STEPS)
    count = shape.numel()
    words = torch.randint(_WORDS.min, _WORDS.max, (-(-count // _DRAWS_A_WORD),), dtype=torch.int64)
    kept = words.view(torch.int16)[:count].view(shape) >= threshold - _STEPS // 2
    return kept, _STEPS / (_STEPS - threshold) if threshold < _STEPS else 0.0


def keep(states: Float[Tensor, "..."], kept: Bool[Tensor, "..."], scale: float) -> Float[Tensor, "..."]:
    """Scale what stays and set the rest to 0."""
    return states * as_factor(kept, scale, states.dtype)


def as_factor(kept: Bool[Tensor, "..."], scale: float, dtype: torch.dtype) -> Shaped[Tensor, "..."]:
    """What each element is multiplied by: 0 or `scale`. Bytes turn into floats faster than truth values do."""
    return kept.view(torch.uint8).to(dtype).mul_(scale)


class _Dropout(torch.autograd.Function):
    """Keeps the mask as truth values, one byte each."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, share: float) -> Tensor:
        kept, scale = draw_kept(states.shape, share)
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return keep(states, kept, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return keep(gradients[0], ctx.saved_tensors[0], ctx.scale), None

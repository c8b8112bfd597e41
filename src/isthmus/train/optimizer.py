"""AdamW over the bridge: which tensors are decayed, and which learn faster."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Rates:
    """Peak learning rates: of tensors that started from a checkpoint, that started random, of the projection."""

    copied: float
    new: float
    projection: float


@dataclass(frozen=True)
class AdamW:
    """The optimizer's settings; `decay` acts on tensors of two or more axes only (DESIGN 5.6)."""

    rates: Rates
    betas: tuple[float, float]
    decay: float


def make_optimizer(bridge: nn.Module, settings: AdamW, *, fresh: Collection[str]) -> torch.optim.AdamW:
    """Group the bridge's tensors by rate and decay; `fresh` names those that started random."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in bridge.named_parameters():
        rate = settings.rates.new if name in fresh else settings.rates.copied
        if name.startswith("projection."):
            rate = settings.rates.projection
        decay = settings.decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    listed = [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]
    return torch.optim.AdamW(listed, betas=settings.betas, fused=True)

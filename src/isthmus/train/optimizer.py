"""AdamW over the bridge: which tensors are decayed, and which learn faster."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn

TEMPERATURE = "heads.temperature"


@dataclass(frozen=True)
class Rates:
    """Peak learning rates: of tensors that started from a checkpoint, that started random, of the projection."""

    copied: float
    new: float
    projection: float


@dataclass(frozen=True)
class AdamW:
    """The optimizer's settings; `decay` acts on tensors of two or more axes, and on the temperature where asked."""

    rates: Rates
    betas: tuple[float, float]
    decay: float
    decay_temperature: bool = False  # the original: True, as its rule leaves out biases and vectors only


def make_optimizer(bridge: nn.Module, settings: AdamW, *, fresh: Collection[str]) -> torch.optim.AdamW:
    """Group the bridge's tensors by rate and decay; `fresh` names those that started random."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in bridge.named_parameters():
        rate = settings.rates.new if name in fresh else settings.rates.copied
        if name.startswith("projection."):
            rate = settings.rates.projection
        decayed = parameter.ndim > 1 or (settings.decay_temperature and name == TEMPERATURE)
        decay = settings.decay if decayed else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    listed = [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]
    return torch.optim.AdamW(listed, betas=settings.betas, fused=True)

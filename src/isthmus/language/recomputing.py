"""Activation checkpointing of a frozen language model's layers: compute them again in the backward, keep little.

transformers' own switch heeds `training`, and a tower stays in evaluation mode. Its layers are wrapped here in their
`forward` alone, so that no module and no tensor of the tower is called otherwise than before.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_layers(model: nn.Module) -> int:
    """Wrap, in place, every layer that transformers marks as one to recompute; gives how many there are."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        layer.forward = _recomputed(layer.forward)
    return len(layers)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def wrapped(*given: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*given, **named)
        return checkpoint(forward, *given, use_reentrant=False, **named)

    return wrapped

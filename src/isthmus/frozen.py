"""What frozen means, for both towers (DESIGN 5.3): no gradients, no precision but its own, and no dropout unasked."""

from typing import TypeVar

import torch
from torch import nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)
Frozen = TypeVar("Frozen", bound="FrozenModule")


def freeze(module: AnyModule) -> AnyModule:
    """Switch gradients and training behaviour off, in place, and hand the module back."""
    return module.requires_grad_(False).eval()


class FrozenModule(nn.Module):
    """A module that stays in evaluation mode whatever is called on it or on its parent.

    The original leaves the language model's dropout on in training; here `train()` changes nothing, unless `dropout`
    is set. Weights stay frozen either way. Subclasses call `freeze` on what they hold.
    """

    dropout: bool = False

    def train(self: Frozen, mode: bool = True) -> Frozen:
        """Stay in evaluation mode: `mode` is heeded only where `dropout` is set."""
        return super().train(mode and self.dropout)

    def own_precision(self) -> torch.autocast:
        """Give a context in which autocast is off: a tower computes in the dtype that it was loaded in.

        Autocast would cast frozen weights anew in every product and make a run's numbers depend on who calls.
        """
        return torch.autocast(next(self.parameters()).device.type, enabled=False)

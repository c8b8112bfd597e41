"""A GELU whose result is not kept for the backward pass: it is computed again from what it was computed of.

Its result is as large as what went in, and both together are the largest part of what a feed-forward keeps.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def gelu_then(dense: nn.Module, states: Float[Tensor, "... F"]) -> Float[Tensor, "... D"]:
    """Compute `dense(gelu(states))`, keeping `states` alone."""
    activated = F.gelu(states)
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return _applied(dense, activated)
    kept, place = states.detach(), activated.data_ptr()

    def pack(tensor: Tensor) -> Tensor | torch.Size:
        return tensor.shape if tensor.data_ptr() == place and tensor.numel() == kept.numel() else tensor

    def unpack(packed: Tensor | torch.Size) -> Tensor:
        return packed if isinstance(packed, Tensor) else F.gelu(kept).view(packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return _applied(dense, activated)


def _applied(dense: nn.Module, states: Tensor) -> Tensor:
    result: Tensor = dense(states)
    return result

"""A GELU whose result is not kept for the backward pass: it is computed again from what it was computed of.

Its result is as large as what went in, and both together are the largest part of what a feed-forward keeps.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F


def gelu_then(dense: nn.Module, states: Float[Tensor, "... F"]) -> Float[Tensor, "... D"]:
    """Compute `dense(gelu(states))`, keeping `states` alone."""
    activated = F.gelu(states)
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return _applied(dense, activated)
    kept, storage = states.detach(), StorageWeakRef(activated.untyped_storage())

    def pack(tensor: Tensor) -> Tensor | torch.Size:
        return tensor.shape if StorageWeakRef(tensor.untyped_storage()) == storage else tensor

    def unpack(packed: Tensor | torch.Size) -> Tensor:
        return packed if isinstance(packed, Tensor) else F.gelu(kept).view(packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return _applied(dense, activated)


def _applied(dense: nn.Module, states: Tensor) -> Tensor:
    result: Tensor = dense(states)
    return result

"""An image's memory: its cross-attention keys and values, projected once per image and layer.

This room of the Q-Former owns the LayerNorm on the patches and the key and value projections. `project` folds the
LayerNorm's scale g and shift b into the projections: W(g·x̂ + b) + c = (W·g)x̂ + (Wb + c), so the stored patches
are normalised without gradient and no product for their gradient is made. `normalise`, `keys` and `values` are the
plain parts that the definition (`QFormer.forward`) uses instead; a test holds the two equal.

A memory lives within one forward pass of a training step: it is part of that step's graph.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Memory:
    """Keys and values of R images for each cross-attention layer, in layer order."""

    keys: tuple[Float[Tensor, "R H P d"], ...]
    values: tuple[Float[Tensor, "R H P d"], ...]

    def select(self, index: Int[Tensor, " S"]) -> "Memory":
        """Take images by index, in its order, repeats allowed: hard negatives without a new projection.

        `index_select` and not `[index]`: on a CPU the backward of the latter adds in no fixed order.
        """
        keys = tuple(layer.index_select(0, index) for layer in self.keys)
        return Memory(keys, tuple(layer.index_select(0, index) for layer in self.values))

    @staticmethod
    def concatenate(*memories: "Memory") -> "Memory":
        """Join memories image after image."""
        return Memory(
            tuple(torch.cat(parts) for parts in zip(*(m.keys for m in memories), strict=True)),
            tuple(torch.cat(parts) for parts in zip(*(m.values for m in memories), strict=True)),
        )


class PatchMemory(nn.Module):
    """LayerNorm on the patches and the K/V projections of all cross-attention layers (BLIP-2 §3.1)."""

    def __init__(self, vision_width: int, width: int, *, heads: int, layers: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(vision_width, eps=eps)
        self.keys = nn.ModuleList(nn.Linear(vision_width, width) for _ in range(layers))
        self.values = nn.ModuleList(nn.Linear(vision_width, width) for _ in range(layers))

    def project(self, patches: Float[Tensor, "B P V"]) -> Memory:
        """Make the memory of a batch of images."""
        normalised = F.layer_norm(self.own_dtype(patches.detach()), self.norm.normalized_shape, eps=self.norm.eps)
        return Memory(
            tuple(self._folded(normalised, layer) for layer in self.keys),
            tuple(self._folded(normalised, layer) for layer in self.values),
        )

    def own_dtype(self, patches: Float[Tensor, "B P V"]) -> Float[Tensor, "B P V"]:
        """Patches come in the dtype they are stored in; without autocast they are computed in the bridge's."""
        if torch.is_autocast_enabled(patches.device.type):
            return patches
        return patches.to(self.norm.weight.dtype)

    def _folded(self, normalised: Float[Tensor, "B P V"], layer: nn.Module) -> Float[Tensor, "B H P d"]:
        assert isinstance(layer, nn.Linear)
        weight, bias = layer.weight * self.norm.weight, layer.bias + layer.weight @ self.norm.bias
        return split_heads(F.linear(normalised, weight, bias), self.heads)


def split_heads(states: Float[Tensor, "B S D"], heads: int) -> Float[Tensor, "B H S d"]:
    """View the width as heads."""
    return states.view(*states.shape[:-1], heads, -1).transpose(1, 2)


def merge_heads(states: Float[Tensor, "B H S d"]) -> Float[Tensor, "B S D"]:
    """Undo `split_heads`."""
    return states.transpose(1, 2).flatten(-2)

"""An image's memory: its cross-attention keys and values, projected once per image and layer.

This room of the Q-Former owns the LayerNorm on the patches and the key and value projections. `project` folds the
LayerNorm's scale g and shift b into the projections: W(g·x̂ + b) + c = (W·g)x̂ + (Wb + c), so the stored patches
are normalised without gradient and no product for their gradient is made. `normalise`, `keys` and `values` are the
plain parts that the definition (`QFormer.forward`) uses instead; a test holds the two equal.

A memory lives within one forward pass of a training step: it is part of that step's graph.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from isthmus.qformer.attention import attention

COUNTS_FREELY = {"cpu"}  # elsewhere reading an index on the host would wait for all that was asked before it
WORTH_SHARING = 2**18
"""Bytes of one image's keys in a layer from which rows share them. Below, one call on copies is faster than a call for
each image: of 49 patches 384 wide in bf16, 64 calls a layer cost more than all that sharing saves (docs/log.md)."""


@dataclass(frozen=True)
class Sharing:
    """Which rows look at which image: `counts[i]` rows at image `images[i]`, in the order of `order`."""

    images: tuple[int, ...]
    counts: tuple[int, ...]
    order: Int[Tensor, " S"]
    inverse: Int[Tensor, " S"]

    @staticmethod
    def of(index: Int[Tensor, " S"]) -> "Sharing":
        """Group rows by the image that each looks at."""
        order = index.argsort(stable=True)
        images, counts = torch.unique(index, return_counts=True)
        return Sharing(tuple(images.tolist()), tuple(counts.tolist()), order, order.argsort())


@dataclass(frozen=True)
class Memory:
    """Keys and values of R images for each cross-attention layer, in layer order.

    After `select`, `index` says which image each of S rows looks at, and `sharing` how they share them.
    """

    keys: tuple[Float[Tensor, "R H P d"], ...]
    values: tuple[Float[Tensor, "R H P d"], ...]
    index: Int[Tensor, " S"] | None = None
    sharing: Sharing | None = None

    def select(self, index: Int[Tensor, " S"]) -> "Memory":
        """Let row s look at image `index[s]`, repeats allowed: hard negatives without a new projection.

        On a CPU large memories are not copied: rows that look at one image are more queries on one memory. Elsewhere
        images are copied to where they are looked at. `index_select` and not `[index]`: the backward of the latter
        adds in no fixed order.
        """
        if self.index is not None:
            index = self.index.index_select(0, index)
        if self._is_shared(index):
            return Memory(self.keys, self.values, index, Sharing.of(index))
        keys = tuple(layer.index_select(0, index) for layer in self.keys)
        return Memory(keys, tuple(layer.index_select(0, index) for layer in self.values))

    def _is_shared(self, index: Int[Tensor, " S"]) -> bool:
        if index.device.type not in COUNTS_FREELY or torch.compiler.is_compiling():
            return False
        return self.keys[0][0].numel() * self.keys[0].element_size() >= WORTH_SHARING

    def attended(
        self, query: Float[Tensor, "S Q D"], cross: int, *, heads: int, dropout: float = 0.0
    ) -> Float[Tensor, "S Q D"]:
        """What each row's queries read of its image in cross-attention layer number `cross`."""
        keys, values = self.keys[cross], self.values[cross]
        if self.sharing is None:
            return merge_heads(attention(split_heads(query, heads), keys, values, dropout=dropout))
        rows, width = query.shape[1:]
        ordered = query.index_select(0, self.sharing.order).view(-1, width)
        parts = torch.split(ordered, [count * rows for count in self.sharing.counts])
        seen = [
            merge_heads(attention(split_heads(part[None], heads), key, value, dropout=dropout))[0]
            for part, key, value in zip(parts, self._looked_at(keys), self._looked_at(values), strict=True)
        ]
        return torch.cat(seen).view(query.shape).index_select(0, self.sharing.inverse)

    def _looked_at(self, layer: Float[Tensor, "R H P d"]) -> Iterator[Float[Tensor, "1 H P d"]]:
        """Each image that is looked at, as a view; all are split off at once, so that gradients are joined once."""
        assert self.sharing is not None
        images = torch.split(layer, 1)
        return (images[image] for image in self.sharing.images)

    @staticmethod
    def concatenate(*memories: "Memory") -> "Memory":
        """Join memories image after image; none of them selected."""
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
        if torch.is_autocast_enabled(patches.device.type):  # which gives fp32 on CUDA, and would cast for every product
            normalised = normalised.to(torch.get_autocast_dtype(patches.device.type))
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
        return split_heads(F.linear(normalised, weight, bias), self.heads).contiguous()


def split_heads(states: Float[Tensor, "B S D"], heads: int) -> Float[Tensor, "B H S d"]:
    """View the width as heads."""
    return states.view(*states.shape[:-1], heads, -1).transpose(1, 2)


def merge_heads(states: Float[Tensor, "B H S d"]) -> Float[Tensor, "B S D"]:
    """Undo `split_heads`."""
    return states.transpose(1, 2).flatten(-2)

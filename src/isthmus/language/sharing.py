"""A frozen language model that is shared out over ranks, layer by layer (FSDP2): what is too large for one device.

Each rank keeps a share of every layer's tensors. A layer's weights are gathered before it is computed, forward and
backward, and dropped after, so that beside the shares one layer is whole at a time, or two where the next is on its
way. Frozen weights have no gradient to send. Embeddings, head and norms stay whole on every rank: words are looked up
one by one, and the head is needed whole where a step's memory is at its peak.
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers.modeling_layers import GradientCheckpointingLayer

from isthmus import distributed


def share_layers(model: nn.Module, device: torch.device) -> int:
    """Leave this rank its share of every layer that transformers marks as one, on a device; gives how many there are.

    In place, and layer by layer, so that no more than one of them is there twice. Every rank calls it.
    """
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    count = 0
    for stack, layers in _stacks(model):
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        inner = {parameter for layer in layers for parameter in layer.parameters()}
        whole = {parameter for parameter in stack.parameters() if parameter not in inner}
        fully_shard(stack, mesh=mesh, ignored_params=whole)  # of no weights: it sends for the next layer in time
        count += len(layers)
    return count


def _stacks(model: nn.Module) -> Iterator[tuple[nn.Module, list[nn.Module]]]:
    """Every module that runs a list of layers, with its layers."""
    for module in model.modules():
        lists = [child for child in module.children() if isinstance(child, nn.ModuleList)]
        layers = [layer for one in lists for layer in one if isinstance(layer, GradientCheckpointingLayer)]
        if layers:
            yield module, layers

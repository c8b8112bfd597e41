"""Frozen weights cost no memory for gradients: none of their own, and nothing kept that only theirs would need."""

import pytest
import torch
from torch import nn

import decoders
import encoder_decoders
from decoders import soft_prompt

CAPTIONS = ["a dog", "red", "two big cats"]
READ_BY_NOTHING_ELSE = {
    "llama": ("mlp.down_proj", "self_attn.o_proj"),
    "opt": ("fc1", "self_attn.out_proj"),
    "t5": ("DenseReluDense.wi", "SelfAttention.o", "EncDecAttention.o"),
    "bart": ("self_attn.out_proj", "encoder_attn.out_proj", "fc2"),
}
"""Linear layers whose input no other operation of the model saves."""


def tower_of(family):
    """With plain attention, as on a CPU: the fused one keeps what it gives, which the next linear layer reads."""
    tower = (decoders if family in decoders.MODELS else encoder_decoders).llm(family)
    tower.model.set_attn_implementation("eager")
    return tower


def kept(tower):
    """What a loss keeps for its backward, and the inputs of the layers in question."""
    saved, inputs = [], []
    for name, module in tower.model.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(READ_BY_NOTHING_ELSE[tower.address.removeprefix("folder:")]):
            module.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        sums, _ = tower.row_losses(soft_prompt(tower), tower.tokenize(CAPTIONS))
    return sums, saved, inputs


def places(tensors):
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@pytest.mark.parametrize("family", READ_BY_NOTHING_ELSE)
def test_no_linear_layer_keeps_its_input(family):
    sums, saved, inputs = kept(tower_of(family))
    assert sums.requires_grad and len(inputs) >= 4
    assert not places(inputs) & places(saved)
    trained = tower_of(family)
    trained.model.requires_grad_(True)
    _, saved, inputs = kept(trained)
    assert places(inputs) & places(saved), "which a layer that learns does"


@pytest.mark.parametrize("family", READ_BY_NOTHING_ELSE)
def test_no_weight_gets_a_gradient(family):
    tower = tower_of(family)
    soft = soft_prompt(tower)
    tower.row_losses(soft, tower.tokenize(CAPTIONS))[0].sum().backward()
    assert soft.grad.abs().sum() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in tower.parameters())

"""Which tensors are decayed, and which learn faster."""

import pytest
import torch
from torch import nn

from bridges import tiny_bridge
from isthmus.train.optimizer import AdamW, Rates, make_optimizer

RATES = Rates(copied=1e-4, new=3e-4, projection=9e-4)


def settings_by_name(bridge, fresh, **more):
    optimizer = make_optimizer(bridge, AdamW(RATES, (0.9, 0.98), 0.05, **more), fresh=fresh)
    names = {id(parameter): name for name, parameter in bridge.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_every_tensor_is_in_one_group_and_only_matrices_are_decayed():
    bridge = tiny_bridge(language_width=7)
    found = settings_by_name(bridge, fresh=())
    assert set(found) == {name for name, _ in bridge.named_parameters()}
    for name, parameter in bridge.named_parameters():
        assert found[name][1] == (0.05 if parameter.ndim > 1 else 0.0), name
    assert found["heads.temperature"][1] == 0.0
    assert found["qformer.memory.norm.weight"][1] == 0.0
    assert found["qformer.queries"][1] == 0.05


def test_the_original_s_rule_decays_the_temperature_and_nothing_else_more():
    bridge = tiny_bridge(language_width=7)
    found = settings_by_name(bridge, fresh=(), decay_temperature=True)
    for name, parameter in bridge.named_parameters():
        left_alone = parameter.ndim == 1 or name.endswith(".bias")  # the original's rule, in its own words
        assert found[name][1] == (0.0 if left_alone else 0.05), name
    assert found["heads.temperature"][1] == 0.05


def test_rates_of_copied_fresh_and_projection():
    found = settings_by_name(tiny_bridge(language_width=7), fresh={"qformer.queries", "heads.image.weight"})
    assert found["qformer.layers.0.self_attention.query.weight"][0] == RATES.copied
    assert found["qformer.queries"][0] == found["heads.image.weight"][0] == RATES.new
    assert found["projection.weight"] == (RATES.projection, 0.05)
    assert found["projection.bias"] == (RATES.projection, 0.0)


def test_one_step_of_adamw_by_hand():
    bridge = nn.Linear(1, 1, bias=False).double()
    bridge.weight.data.fill_(2.0)
    optimizer = make_optimizer(bridge, AdamW(Rates(0.1, 0.1, 0.1), (0.9, 0.98), 0.5), fresh=())
    bridge.weight.grad = torch.tensor([[4.0]], dtype=torch.float64)
    optimizer.step()
    # the first step's corrected moments are the gradient and its square: a move of lr, after a decay of lr * 0.5
    assert bridge.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1, abs=1e-8)
    assert optimizer.defaults["fused"] and optimizer.defaults["betas"] == (0.9, 0.98)

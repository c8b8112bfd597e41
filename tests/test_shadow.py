"""Tensors without storage: counts of what is alive, and the values that sizes depend on."""

import copy

import pytest
import torch
from torch import nn

from isthmus.shadow import Shadow, storage_bytes

CPU, FP32 = torch.device("cpu"), torch.float32


def test_what_is_alive_is_counted_once_and_given_back():
    shadow = Shadow()
    with shadow:
        kept = shadow.blank(1000, dtype=FP32, device=CPU)
        view = kept.view(10, 100)[2:]
        assert (shadow.now, storage_bytes([kept, view])) == (4000, 4000)
        gone = view * 2
        assert (shadow.now, gone.device) == (7200, CPU)
        del gone
        assert (shadow.now, shadow.peak) == (4000, 7200)
        shadow.mark()
        assert shadow.peak == 4000
    assert type(torch.empty(1)) is torch.Tensor


def test_what_is_saved_for_a_backward_lives_until_it():
    shadow = Shadow()
    with shadow:
        weight = nn.Parameter(shadow.blank(100, 100, dtype=FP32, device=CPU))
        states = shadow.blank(50, 100, dtype=FP32, device=CPU)
        begun = shadow.now
        loss = (states @ weight).exp().sum()
        assert shadow.now - begun == 50 * 100 * 4 + 4  # the result of exp, and the loss
        loss.backward()
        del loss
        assert shadow.now - begun == storage_bytes([weight.grad]) == 40_000


def test_sizes_that_depend_on_given_values_are_those_values():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    shadow = Shadow()
    with shadow:
        states = shadow.blank(2, 3, 8, dtype=FP32, device=CPU)
        assert states[mask].shape == (3, 8)
        assert states.flatten(0, 1).index_select(0, mask.flatten().nonzero()[:, 0]).shape == (3, 8)
        assert int(mask.sum(dim=1).max()) == 2
        assert mask.sum(dim=1).tolist() == [2, 1]
        drawn = states.sum(dim=(1, 2)).argmax()  # a weight would decide: the first row
        assert mask.index_select(0, drawn[None]).nonzero().shape == (2, 2)


def test_a_deep_copy_is_a_tensor_of_its_own():
    shadow = Shadow()
    with shadow:
        cache = {"keys": shadow.blank(4, 4, dtype=FP32, device=CPU)}
        other = copy.deepcopy(cache)
        assert (storage_bytes([cache["keys"], other["keys"]]), shadow.now) == (128, 128)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_module_built_on_meta_settles_with_what_it_shares(dtype):
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4), nn.BatchNorm1d(4)).to(dtype)
        module[1].weight = module[0].weight
        module[0].requires_grad_(False)
    shadow = Shadow()
    with shadow:
        shadow.settle(module, CPU)
    assert module[1].weight is module[0].weight
    assert not module[0].weight.requires_grad
    assert module[1].bias.requires_grad
    assert {one.device for one in module.state_dict().values()} == {CPU}
    assert shadow.now == (16 + 4 + 4 * 4) * dtype.itemsize + 8  # BatchNorm counts its batches in an int64

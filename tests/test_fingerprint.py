"""A tower is known by its weights in any precision, and proven unchanged to the bit in its own."""

import copy
import os

import torch
from torch import nn

from isthmus.fingerprint import module_fingerprint, text_identity, weights_fingerprint


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Linear(5, 2))


def test_the_same_weights_in_bf16_are_the_same_tower_but_not_the_same_bits():
    tower = model()
    cast = copy.deepcopy(tower).to(torch.bfloat16)
    assert weights_fingerprint(cast) == weights_fingerprint(tower)
    assert module_fingerprint(cast) != module_fingerprint(tower)


def test_weights_stored_in_fp16_are_the_same_tower_in_fp32_and_in_bf16():
    half = model().half()
    assert weights_fingerprint(copy.deepcopy(half).float()) == weights_fingerprint(half)
    assert weights_fingerprint(copy.deepcopy(half).to(torch.bfloat16)) == weights_fingerprint(half)


def test_one_other_value_is_another_tower_and_one_other_bit_is_a_change():
    tower = model()
    other, moved = copy.deepcopy(tower), copy.deepcopy(tower)
    with torch.no_grad():
        other[2].bias[1] += 0.5
        moved[2].bias[1] = torch.nextafter(moved[2].bias[1], torch.tensor(9.0))
    assert weights_fingerprint(other) != weights_fingerprint(tower)
    assert module_fingerprint(moved) != module_fingerprint(tower)


def test_whole_numbers_are_hashed_as_they_are():
    tower = model()
    counted = copy.deepcopy(tower)
    counted[1].num_batches_tracked += 1
    assert weights_fingerprint(counted) != weights_fingerprint(tower)


def test_a_name_that_no_utf_8_can_hold_has_an_identity():
    assert text_identity(os.fsdecode(b"\xff.png")) != text_identity(os.fsdecode(b"\xfe.png"))

"""Precision and device: bf16 where it is native, what is forced is forced, what is not there is refused."""

import pytest
import torch

from isthmus.build.precision import Compute, choose_compute, native_bf16
from isthmus.errors import ConfigError


@pytest.fixture
def machine(monkeypatch):
    def machine(**capabilities):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    return machine


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": False, "amx_int8": True, "avx512_f": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_is_bf16_where_it_is_the_hardwares_own(machine, capabilities, dtype):
    machine(**capabilities)
    assert choose_compute("auto", "auto") == Compute(torch.device("cpu"), dtype)


def test_the_capabilities_asked_for_are_torchs_own_names():
    if torch.backends.cpu.get_cpu_capability() != "DEFAULT":
        assert {"amx_bf16", "avx512_bf16"} <= set(torch.cpu.get_capabilities())


def test_what_is_forced_is_forced(machine):
    machine(amx_bf16=True)
    assert choose_compute("cpu", "fp32").dtype == torch.float32
    machine()
    assert choose_compute("cpu", "bf16").dtype == torch.bfloat16


def test_names_for_accelerate_and_for_the_record():
    assert Compute(torch.device("cpu"), torch.float32).mixed_precision == "no"
    assert Compute(torch.device("cpu"), torch.bfloat16).mixed_precision == "bf16"
    assert Compute(torch.device("cpu"), torch.bfloat16).dtype_name == "bfloat16"


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_cuda_is_asked_for_its_generation(monkeypatch, capability, native):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert native_bf16(torch.device("cuda")) == native
    assert not native_bf16(torch.device("mps"))


@pytest.mark.parametrize(
    ("device", "message"), [("gpu", "which torch does not know"), ("cuda", "but 0 CUDA devices are here")]
)
def test_a_device_that_is_not_there_is_refused(machine, device, message):
    machine()
    with pytest.raises(ConfigError, match=message):
        choose_compute(device, "auto")

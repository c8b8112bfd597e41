"""Which device and which precision a run uses: chosen by what the hardware does natively, and written down."""

from dataclasses import dataclass
from typing import Literal

import torch

from isthmus.errors import ConfigError

Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True)
class Compute:
    """Where and how a run computes; `dtype` is that of towers, stored features and autocast alike."""

    device: torch.device
    dtype: torch.dtype

    @property
    def mixed_precision(self) -> str:
        """Accelerate's name for it."""
        return "bf16" if self.dtype == torch.bfloat16 else "no"

    def autocast(self) -> torch.autocast:
        """The context in which a bridge computes outside of training, where Accelerate gives the same."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    @property
    def dtype_name(self) -> str:
        """For example `float32`."""
        return str(self.dtype).removeprefix("torch.")


def native_bf16(device: torch.device) -> bool:
    """True where products in bf16 are the hardware's own: CUDA from sm80, a CPU with AMX or AVX512-BF16.

    Elsewhere bf16 is emulated, at a fifth of fp32's rate or less (docs/log.md).
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return False


def choose_compute(device: str, precision: Precision) -> Compute:
    """Resolve `auto`; raises `ConfigError` for a device that is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as problem:
        raise ConfigError(f"`device` is {device!r}, which torch does not know; use auto, cpu or cuda") from problem
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"`device` is {device!r}; isthmus runs on cpu and cuda")
    if chosen.type == "cuda":
        _take_cuda(chosen, device)
    bf16 = precision == "bf16" or (precision == "auto" and native_bf16(chosen))
    return Compute(chosen, torch.bfloat16 if bf16 else torch.float32)


def _take_cuda(chosen: torch.device, named: str) -> None:
    """Make a CUDA device the current one, which Accelerate then takes too."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (chosen.index or 0) >= count:
        raise ConfigError(f"`device` is {named!r} but {count} CUDA devices are here; use device=auto or device=cpu")
    if chosen.index is not None:
        torch.cuda.set_device(chosen)

"""What runs can share: the machine's choice of device and precision, and the frozen encoder."""

from dataclasses import dataclass

from torch import nn

from isthmus.build.precision import Compute, choose_compute
from isthmus.build.towers import build_encoder
from isthmus.config.run import RunConfig
from isthmus.fingerprint import module_fingerprint
from isthmus.vision.encoder import Encoder


@dataclass(frozen=True)
class Tower:
    """A frozen model with the fingerprint it had when it was loaded."""

    module: nn.Module
    address: str
    fingerprint: str

    def unchanged(self) -> bool:
        """Hash it again: True where every tensor is what it was."""
        return module_fingerprint(self.module) == self.fingerprint


@dataclass(frozen=True)
class Workshop:
    """What runs can share: device and precision, and the frozen encoder."""

    compute: Compute
    encoder: Encoder
    tower: Tower


def open_workshop(config: RunConfig) -> Workshop:
    """Choose device and precision, load the image encoder."""
    compute = choose_compute(config.device, config.precision)
    encoder = build_encoder(config.encoder, compute)
    return Workshop(compute, encoder, Tower(encoder, encoder.address, module_fingerprint(encoder)))

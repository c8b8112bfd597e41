"""What runs can share: the machine's choice of device and precision, and the frozen towers, each loaded once."""

from dataclasses import dataclass, field

from torch import nn

from isthmus.build.precision import Compute, choose_compute
from isthmus.build.towers import build_encoder, build_llm
from isthmus.config.model import LanguageConfig
from isthmus.config.run import RunConfig
from isthmus.errors import CheckpointError
from isthmus.fingerprint import module_fingerprint, weights_fingerprint
from isthmus.language.llm import FrozenLLM
from isthmus.language.prompts import Prompt
from isthmus.records import BridgeFile
from isthmus.vision.encoder import Encoder

SIGHT = ("hidden_layer", "image_size", "squash")
"""What changes the patches of the same weights, by its key in a config of the encoder."""


@dataclass(frozen=True)
class TowerIdentity:
    """What a bridge knows a tower by: its weights, in whatever precision, and how it sees pictures.

    `hidden_layer` gives the patches.
    `image_size` and `squash` are those of the pictures where they are not the tower's own.
    """

    address: str
    fingerprint: str
    hidden_layer: int | None = None
    image_size: int | None = None
    squash: bool | None = None

    @property
    def sight(self) -> tuple[str | int | None, ...]:
        """Everything but the address: equal where two encoders give the same patches of a picture."""
        return (self.fingerprint, *(getattr(self, name) for name in SIGHT))


@dataclass(frozen=True)
class Tower:
    """A frozen model as it was loaded: `fingerprint` says which weights it holds, in whatever precision.

    `state` is the hash of every bit in the run's own precision: the proof that nothing changed.
    """

    module: nn.Module
    address: str
    fingerprint: str
    state: str
    hidden_layer: int | None = None
    image_size: int | None = None
    squash: bool | None = None

    def unchanged(self) -> bool:
        """Hash it again: True where every tensor is what it was."""
        return module_fingerprint(self.module) == self.state


@dataclass(frozen=True)
class Workshop:
    """What runs can share: device and precision, the frozen encoder, and the language model that was asked for last."""

    compute: Compute
    encoder: Encoder
    tower: Tower
    _language: dict[tuple[str, Prompt], tuple[FrozenLLM, Tower]] = field(default_factory=dict, repr=False)

    def language_model(self, config: LanguageConfig, prompt: Prompt) -> tuple[FrozenLLM, Tower]:
        """Load a frozen language model, or give the one that is there; another one takes its place in memory."""
        key = (config.model_dump_json(exclude={"prompt", "cache"}), prompt)
        if key not in self._language:
            self._language.clear()
            llm = build_llm(config, prompt, self.compute)
            self._language[key] = (llm, make_tower(llm))
        return self._language[key]


def open_workshop(config: RunConfig) -> Workshop:
    """Choose device and precision, load the image encoder."""
    compute = choose_compute(config.device, config.precision)
    encoder = build_encoder(config.encoder, compute)
    return Workshop(compute, encoder, make_tower(encoder))


def make_tower(model: Encoder | FrozenLLM) -> Tower:
    """Take a frozen model's identity, and its state as the proof that it does not change."""
    known = identify(model)
    sight = {name: getattr(known, name) for name in SIGHT}
    return Tower(model, known.address, known.fingerprint, module_fingerprint(model), **sight)


def identify(model: Encoder | FrozenLLM) -> TowerIdentity:
    """Take a frozen model's fingerprint; of an encoder, how it sees pictures is a part of its identity."""
    sight = {name: getattr(model, name) for name in SIGHT} if isinstance(model, Encoder) else {}
    return TowerIdentity(model.address, weights_fingerprint(model), **sight)


def check_tower(file: BridgeFile, name: str, tower: Tower | TowerIdentity) -> None:
    """Raise `CheckpointError` when a tower is not the one that a bridge was trained with."""
    trained = file.provenance["towers"][name]
    for key in SIGHT:
        if trained.get(key) != getattr(tower, key):
            raise CheckpointError(
                f"the bridge was trained with encoder.{key}={trained.get(key)} of {trained['address']}, not "
                f"{getattr(tower, key)}; give the same `encoder.{key}`"
            )
    if trained["fingerprint"] != tower.fingerprint:
        raise CheckpointError(
            f"the {name} {tower.address} is not the one this bridge was trained with, {trained['address']} "
            f"({tower.fingerprint[:12]} against {trained['fingerprint'][:12]}); give the same weights"
        )

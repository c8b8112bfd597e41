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


@dataclass(frozen=True)
class TowerIdentity:
    """What a bridge knows a tower by: its weights, in whatever precision, and the layer that gives the patches.

    `image_size` is that of the pictures where it is not the tower's own.
    """

    address: str
    fingerprint: str
    hidden_layer: int | None = None
    image_size: int | None = None


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
    return Tower(
        model, known.address, known.fingerprint, module_fingerprint(model), known.hidden_layer, known.image_size
    )


def identify(model: Encoder | FrozenLLM) -> TowerIdentity:
    """Take a frozen model's fingerprint; of an encoder, the layer that gives the patches is a part of it."""
    seen = (model.hidden_layer, model.image_size) if isinstance(model, Encoder) else (None, None)
    return TowerIdentity(model.address, weights_fingerprint(model), *seen)


def check_tower(file: BridgeFile, name: str, tower: Tower | TowerIdentity) -> None:
    """Raise `CheckpointError` when a tower is not the one that a bridge was trained with."""
    trained = file.provenance["towers"][name]
    if trained.get("hidden_layer") != tower.hidden_layer:
        raise CheckpointError(
            f"the bridge was trained with hidden layer {trained.get('hidden_layer')} of {trained['address']}, not "
            f"{tower.hidden_layer}; give the same `encoder.hidden_layer`"
        )
    if trained.get("image_size") != tower.image_size:
        raise CheckpointError(
            f"the bridge was trained with encoder.image_size={trained.get('image_size')} of {trained['address']}, not "
            f"{tower.image_size}; give the same `encoder.image_size`"
        )
    if trained["fingerprint"] != tower.fingerprint:
        raise CheckpointError(
            f"the {name} {tower.address} is not the one this bridge was trained with, {trained['address']} "
            f"({tower.fingerprint[:12]} against {trained['fingerprint'][:12]}); give the same weights"
        )

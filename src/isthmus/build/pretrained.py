"""Bridge folders of one or both stages → their models, ready to predict: encoder, bridges, language model."""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from isthmus.build.bridge import bridge_folder, load_bridge
from isthmus.build.folders import (
    FoundBridge,
    Moved,
    Need,
    check_need,
    check_wanted_llm,
    find_bridges,
    one_bridge,
    tower_config,
)
from isthmus.build.precision import Compute, choose_compute, native_bf16
from isthmus.build.towers import build_encoder, build_llm
from isthmus.build.workshop import check_tower, identify
from isthmus.checkpoints.card import model_card
from isthmus.checkpoints.native import CONFIG, check_model_place, read_bridge, write_bridge
from isthmus.config.model import EncoderConfig, LanguageConfig
from isthmus.config.stages import STAGES
from isthmus.errors import AbsentPartError, CheckpointError, ConfigError, TowerError
from isthmus.frozen import freeze
from isthmus.language.llm import FrozenLLM
from isthmus.language.prompts import Prompt
from isthmus.models.bridge import Bridge
from isthmus.qformer.tokenizer import QFormerTokenizer
from isthmus.records import BridgeFile
from isthmus.vision.encoder import Encoder

# no fp16: what fp32 weights round to there does not tell which weights they were, and fingerprints are of bf16
_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wishes:
    """Where and how to load: `device` and `dtype`, `auto` or by name; `device_map` is transformers' own for the LLM.

    `towers` are new addresses of those that moved.
    """

    device: str = "auto"
    dtype: str | torch.dtype = "auto"
    device_map: Any = None
    towers: Moved = field(default_factory=Moved)


@dataclass(frozen=True)
class LoadedBridge(FoundBridge):
    """One stage's bridge with all that its folder says; frozen and in evaluation mode.

    Weights of others that read no texts come without a tokenizer.
    """

    bridge: Bridge
    tokenizer: QFormerTokenizer | None

    def need_tokenizer(self) -> QFormerTokenizer:
        """The tokenizer of what the Q-Former reads; raises `AbsentPartError` where the weights came without."""
        if self.tokenizer is None:
            raise AbsentPartError(
                f"{self.folder} has no tokenizer of the Q-Former; convert the weights again with --tokenizer"
            )
        return self.tokenizer


@dataclass(frozen=True)
class Pretrained:
    """The towers and the bridges of stage 1, of stage 2, or of both; there is an LLM where there is a stage 2."""

    compute: Compute
    encoder: Encoder
    encoder_identity: tuple[str | int | None, ...]
    bridges: Mapping[int, LoadedBridge]
    llm: FrozenLLM | None


def load_pretrained(folders: Sequence[Path], wishes: Wishes, *, only: Need | None = None) -> Pretrained:
    """Load what some folders hold; each tower once, in its final precision, and accepted by its fingerprint.

    With `only`, the bridge of one stage, and no language model for stage 1.
    Raises `CheckpointError` for what is no bridge or does not fit together, `TowerError` for a tower that is gone,
    `ConfigError` for a device or dtype that is not known and for what is said of a language model where there is none,
    `AbsentPartError` where the one that is needed is not there.
    """
    found, new = find_bridges(folders), wishes.towers
    check_wanted_llm(found, {"llm": new.llm, "device_map": wishes.device_map}, new.form)
    if only is not None:
        check_need(only, found)
        found = {only.stage: found[only.stage]}
    files = {stage: read_bridge(bridge.folder) for stage, bridge in found.items()}
    first = min(found)
    compute = _compute(wishes, [bridge.provenance for bridge in found.values()])
    encoder = build_encoder(tower_config(EncoderConfig, found[first], "encoder", new), compute)
    known = identify(encoder)
    check_tower(files[first], "encoder", known)
    llm = _load_llm(found[2], files[2], wishes, compute) if 2 in found else None
    moved = {}
    if new.encoder is not None:
        moved["encoder"] = (new.encoder, encoder.address)
    if new.llm is not None and llm is not None:
        moved["llm"] = (new.llm, llm.address)
    bridges = {stage: _load(found[stage].folder, files.pop(stage), moved, compute) for stage in sorted(files)}
    return Pretrained(compute, encoder, known.sight, bridges, llm)


def load_alone(folder: Path) -> LoadedBridge:
    """Load the one bridge of a folder without its towers, in fp32 on the CPU.

    Raises `CheckpointError` for what is no bridge, `ConfigError` for a folder of both stages.
    """
    (found,) = find_bridges([one_bridge(folder)]).values()
    return _load(found.folder, read_bridge(found.folder), {}, choose_compute("cpu", "fp32"))


def save_bridges(bridges: Mapping[int, LoadedBridge], folder: Path, *, licence: str | None) -> None:
    """Write one bridge as a folder, or those of both stages into `stage1` and `stage2` below it.

    The weights are those of the folder that each was loaded from, in full precision. Raises `CheckpointError`, before
    anything is written, where a place holds what is no model folder, or the folder loaded from is gone.
    """
    places = {stage: folder / STAGES[stage] if len(bridges) > 1 else folder for stage in bridges}
    if len(bridges) > 1 and (bridge_folder(folder) / CONFIG).exists():
        raise CheckpointError(f"{folder} holds a bridge of its own, which those of two stages would hide behind")
    for place in places.values():
        check_model_place(place)
    for stage, loaded in bridges.items():
        tensors = read_bridge(loaded.folder).tensors  # as they were trained: the loaded ones may have been rounded
        provenance = loaded.provenance if licence is None else {**loaded.provenance, "licence": licence}
        file = BridgeFile(loaded.bridge.sizes, tensors, provenance)
        save = None if loaded.tokenizer is None else loaded.tokenizer.save
        write_bridge(file, places[stage], save_tokenizer=save, card=model_card(provenance))


def _compute(wishes: Wishes, provenances: Sequence[Mapping[str, Any]]) -> Compute:
    """The device, and the precision trained in where the device has it natively."""
    compute = choose_compute(wishes.device, "fp32")
    if wishes.dtype != "auto":
        dtype = wishes.dtype if isinstance(wishes.dtype, torch.dtype) else _DTYPES.get(wishes.dtype)
        if dtype is None or dtype not in _DTYPES.values():
            raise ConfigError(f"`dtype` is {wishes.dtype!r}; use auto, float32 or bfloat16")
        return replace(compute, dtype=dtype)
    trained = {provenance["precision"] for provenance in provenances}
    native = trained == {"bfloat16"} and native_bf16(compute.device)
    compute = replace(compute, dtype=torch.bfloat16 if native else torch.float32)
    why = "" if trained == {compute.dtype_name} else f": trained in {' and '.join(sorted(trained))}"
    _log.info("computing in %s on %s%s", compute.dtype_name, compute.device, why)
    return compute


def _load_llm(found: FoundBridge, file: BridgeFile, wishes: Wishes, compute: Compute) -> FrozenLLM:
    """The frozen language model in its dtype, on its device or devices, known by its fingerprint."""
    config = tower_config(LanguageConfig, found, "llm", wishes.towers).model_copy(update={"dropout": False})
    if not Path(config.cache).expanduser().is_dir():  # that of another machine; a GGUF file is unpacked here anew
        config = config.model_copy(update={"cache": LanguageConfig.model_fields["cache"].default})
    prompt = Prompt.from_json(found.provenance["prompt"])
    llm = build_llm(config, prompt, compute, device_map=wishes.device_map)
    if any(parameter.is_meta for parameter in llm.parameters()):
        raise TowerError(
            f"device_map={wishes.device_map!r} leaves a part of {llm.address} out of memory, so that its weights "
            "cannot be checked; spread it over devices that hold it"
        )
    check_tower(file, "llm", identify(llm))
    return llm


def _load(folder: Path, file: BridgeFile, moved: Mapping[str, tuple[str, str]], compute: Compute) -> LoadedBridge:
    longest = file.provenance["config"]["bridge"]["max_tokens"]
    has_one = file.sizes.text or (folder / "tokenizer_config.json").is_file()
    tokenizer = QFormerTokenizer(folder, max_tokens=longest) if has_one else None
    bridge = freeze(load_bridge(file)).to(compute.device).settle(compute.dtype)
    provenance = copy.deepcopy(file.provenance)
    for name, (weights, address) in moved.items():
        if name in provenance["towers"]:  # a copy of this folder then finds them where they are
            provenance["config"][name]["weights"] = weights
            provenance["towers"][name]["address"] = address
    return LoadedBridge(folder, provenance, bridge, tokenizer)

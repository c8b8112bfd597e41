"""Folders → the bridges in them and what those can do (DESIGN 5.12), before any weights are read."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from isthmus.build.bridge import bridge_folder
from isthmus.build.towers import resolve
from isthmus.build.workshop import SIGHT
from isthmus.checkpoints.native import CONFIG, read_provenance
from isthmus.config.model import EncoderConfig, LanguageConfig
from isthmus.config.stages import STAGES
from isthmus.errors import AbsentPartError, CheckpointError, ConfigError, TowerError

TowerConfig = TypeVar("TowerConfig", EncoderConfig, LanguageConfig)


@dataclass(frozen=True)
class FoundBridge:
    """A bridge's folder, and what it says of its making."""

    folder: Path
    provenance: dict[str, Any]

    @property
    def instructed(self) -> bool:
        """Whether it was trained to answer questions."""
        return bool(self.provenance["config"].get("bridge", {}).get("instruct"))

    @property
    def ability(self) -> str:
        """What it can do."""
        if self.provenance["stage"] == 1:
            return "it matches, embeds and captions by the Q-Former"
        if self.instructed:
            return "it answers questions through its language model"
        return "it captions through its language model"


@dataclass(frozen=True)
class Need:
    """The stage whose bridge is needed, and `what` for, as it is told where there is none.

    Of stage 2, one that is `instructed` answers questions, and another captions.
    """

    stage: int
    what: str
    instructed: bool = False


@dataclass(frozen=True)
class Moved:
    """New addresses of towers that moved, and the `form` in which whoever loads gives such a key and its value."""

    encoder: str | None = None
    llm: str | None = None
    form: str = "{}={!r}"


MATCH, EMBED, ASK = Need(1, "match"), Need(1, "embed"), Need(2, "answer questions", instructed=True)


def need_of_caption(by: str | None, prompt: object, stages: Container[int]) -> Need:
    """Who captions: the language model (stage 2) or the Q-Former (stage 1), as asked, else as there is one.

    Raises `ConfigError` for a writer that nobody knows, or a prompt for one that reads none.
    """
    if by not in (None, "llm", "qformer"):
        raise ConfigError(f"by is {by!r}; give 'llm' or 'qformer', or leave it out")
    writer = by or ("llm" if 2 in stages else "qformer")
    if writer == "qformer" and prompt is not None:
        raise ConfigError("the Q-Former writes without a prompt; leave it out, or caption with a stage-2 folder")
    return Need(2 if writer == "llm" else 1, f"caption by {writer!r}")


def check_need(need: Need, bridges: Mapping[int, FoundBridge]) -> None:
    """Raise `AbsentPartError` where no bridge can do what is needed: what there is can do, and what to give."""
    if need.stage in bridges:
        _check_instructed(need, bridges[need.stage])
        return
    (other,) = bridges.values()
    if need.stage == 1:
        start = (other.provenance["config"].get("init") or {}).get("from")
        raise AbsentPartError(
            f"{other.folder} is of stage 2: {other.ability} and cannot {need.what}; give the "
            f"folder of stage 1 too{f' (it began from {start})' if start else ''}"
        )
    trained = ", one trained with bridge.instruct," if need.instructed else ""
    raise AbsentPartError(
        f"{other.folder} is of stage 1: {other.ability}, and cannot {need.what}; give the folder of stage 2{trained} "
        "too"
    )


def _check_instructed(need: Need, bridge: FoundBridge) -> None:
    if need.stage == 1 or need.instructed == bridge.instructed:
        return
    remedy = "give the folder of a run with bridge.instruct=true" if need.instructed else "use ask, with a question"
    raise AbsentPartError(f"{bridge.folder} is of stage 2: {bridge.ability}, and cannot {need.what}; {remedy}")


def find_bridges(folders: Sequence[Path]) -> dict[int, FoundBridge]:
    """The bridges that some folders hold, by stage.

    Raises `CheckpointError` for what is no bridge of a training run, and for bridges that do not fit together.
    """
    found: dict[int, FoundBridge] = {}
    for folder in (inner for given in folders for inner in bridge_folders(given.expanduser())):
        bridge = FoundBridge(folder, read_provenance(folder))
        stage = bridge.provenance.get("stage")
        if stage not in STAGES or "encoder" not in bridge.provenance.get("config", {}):
            raise CheckpointError(f"{folder} does not say how it was trained; give the bridge of a training run")
        if stage in found:
            raise CheckpointError(
                f"{found[stage].folder} and {folder} are both of stage {stage}; give one of each stage"
            )
        found[stage] = bridge
    towers = [bridge.provenance["towers"]["encoder"] for bridge in found.values()]
    if len({(tower["fingerprint"], *map(tower.get, SIGHT)) for tower in towers}) > 1:
        one, two = (f"{b.folder} ({tower['address']})" for b, tower in zip(found.values(), towers, strict=True))
        raise CheckpointError(f"{one} and {two} see pictures by different encoders; give two folders of one encoder")
    return found


def check_wanted_llm(bridges: Mapping[int, FoundBridge], wanted: Mapping[str, Any], form: str) -> None:
    """Raise `ConfigError` for the first of these keys about a language model that has a value where there is none."""
    if 2 in bridges:
        return
    for key, value in wanted.items():
        if value is not None:
            raise ConfigError(
                f"{form.format(key, value)} is about a language model, and {bridges[1].folder} is of stage 1, which "
                "has none; leave it out, or give the folder of stage 2 too"
            )


def check_towers(bridge: FoundBridge, moved: Moved) -> None:
    """See that the towers are where they were, or at these new addresses; nothing is loaded, and the Hub not asked.

    Raises `TowerError` where there is nothing, `ConfigError` for what is no address.
    """
    configs: list[EncoderConfig | LanguageConfig] = [tower_config(EncoderConfig, bridge, "encoder", moved)]
    if bridge.provenance["stage"] == 2:
        configs.append(tower_config(LanguageConfig, bridge, "llm", moved))
    for config in configs:
        if config.weights is not None:
            resolve(config.weights)


def tower_config(kind: type[TowerConfig], bridge: FoundBridge, name: str, moved: Moved) -> TowerConfig:
    """A tower's config as it was trained with, at its new address if it moved.

    Raises `TowerError` where it is no longer, or not where it is said to be.
    """
    recorded, new = bridge.provenance["config"][name], getattr(moved, name)
    if new is not None:
        resolve(new)
        recorded = {**recorded, "weights": new}
    address = str(recorded.get("weights"))
    try:
        config = kind.model_validate(recorded)
        if address.startswith(("folder:", "file:")):
            resolve(address)
    except ValidationError as problem:
        raise CheckpointError(
            f"{bridge.folder} has a config.{name} that this isthmus does not know; update isthmus"
        ) from problem
    except TowerError as problem:
        raise TowerError(
            f"the {name} of {bridge.folder} is no longer at {address}; say where it is: "
            f"{moved.form.format(name, 'folder:PATH')} or {moved.form.format(name, 'file:PATH')}"
        ) from problem
    return config


def bridge_folders(folder: Path) -> list[Path]:
    """The bridges in a folder: a bridge's own, that of a run, or those of the runs `stage1` and `stage2` in it."""
    own = bridge_folder(folder)
    return [own] if (own / CONFIG).is_file() else [bridge_folder(run) for run in _runs(folder)] or [own]


def one_bridge(folder: Path) -> Path:
    """The bridge of one run; raises `ConfigError` for a folder that holds the runs of stages, and names them."""
    found = bridge_folders(folder)
    if found == [bridge_folder(folder)]:
        return found[0]
    runs = _runs(folder)
    held, wanted = " and ".join(run.name for run in runs), " or ".join(map(str, runs))
    raise ConfigError(f"{folder} holds {held}, and one bridge is asked for; give {wanted}")


def _runs(folder: Path) -> list[Path]:
    """The folders `stage1` and `stage2` in a folder, where there is a bridge in them."""
    runs = [folder / name for name in STAGES.values()]
    return [run for run in runs if (bridge_folder(run) / CONFIG).is_file()]

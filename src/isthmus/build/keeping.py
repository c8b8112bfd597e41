"""What a run writes of itself on the way: its checkpoints, and its bridge at the end."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from isthmus import distributed
from isthmus.build.bridge import BRIDGE, BuiltBridge
from isthmus.build.workshop import Tower
from isthmus.checkpoints.card import model_card
from isthmus.checkpoints.native import write_bridge
from isthmus.checkpoints.shelf import Shelf
from isthmus.checkpoints.training import TrainingFile
from isthmus.config.run import RunConfig
from isthmus.errors import ConfigError, UserError
from isthmus.records import BridgeFile
from isthmus.train.loop import Trainer
from isthmus.train.resume import Snapshot, take
from isthmus.train.trackers import Trackers

CHECKPOINTS = "checkpoints"
OVERWRITTEN = "checkpoints-overwritten"
"""Where those of a run wait that is trained over, until the new one takes its first step."""


def open_shelf(config: RunConfig) -> Shelf:
    """Where a run's checkpoints lie."""
    return Shelf(Path(config.output) / CHECKPOINTS, keep=config.train.keep)


def holds_checkpoints(config: RunConfig) -> bool:
    """Whether anything lies where a run's checkpoints do."""
    folder = Path(config.output) / CHECKPOINTS
    return folder.is_dir() and any(folder.iterdir())


@dataclass
class Keeper:
    """Saves a run after some step; all ranks call it together, and the first writes.

    `before` is how many seconds the run took until it was stopped, and `resumed_after` the steps after which it was.
    """

    config: RunConfig
    built: BuiltBridge
    towers: Mapping[str, Tower]
    provenance: Mapping[str, Any]
    shelf: Shelf
    before: float = 0.0
    resumed_after: tuple[int, ...] = ()
    trackers: Trackers | None = None
    _saved: int = 0
    _bridge_is_there: bool = False
    _begun: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """What the run took so far."""
        return round(self.before + time.monotonic() - self._begun, 1)

    def go_on(self, position: Mapping[str, Any], folder: Path) -> None:
        """Note that a run goes on after a step that is saved in a folder, which may be another run's."""
        self.before = position["seconds"]
        if folder.resolve().parent == self.shelf.folder.resolve():
            self._saved = position["step"]
        self.resumed_after = (*position["resumed_after"], position["step"])

    def save(self, trainer: Trainer) -> None:
        """Copy the run as it is after its last step, and write it while the next one is taken; the last step waits.

        Writes no checkpoint where that step is saved already, or none was taken, and the bridge after the last step.
        Raises `UserError` where a tower changed or the bridge is not finite, `CheckpointError` where this checkpoint,
        or the one before, cannot be written.
        """
        if trainer.done != self._saved:
            self._save(trainer)
        if trainer.done == trainer.plan.steps and not self._bridge_is_there:
            self._write_bridge(trainer)
            self._bridge_is_there = True

    def _save(self, trainer: Trainer) -> None:
        snapshot = take(trainer)
        if distributed.rank() == 0:
            file = self._file(trainer, snapshot)
            self.shelf.write_later(file, trainer.done, save_tokenizer=self.built.tokenizer.save)
        self._saved = trainer.done

    def _file(self, trainer: Trainer, snapshot: Snapshot) -> TrainingFile:
        rows = self.config.train.batch_size * distributed.world_size()
        place = {
            "rows": rows,
            "accumulation": trainer.plan.accumulation,
            "seconds": self.seconds,
            "resumed_after": list(self.resumed_after),
            "trackers": {} if self.trackers is None else self.trackers.state(),
        }
        return TrainingFile(
            self._bridge(trainer, snapshot.bridge),
            snapshot.optimizer,
            snapshot.random,
            {**snapshot.position, **place},
        )

    def _bridge(self, trainer: Trainer, tensors: dict[str, Tensor]) -> BridgeFile:
        return BridgeFile(self.built.bridge.sizes, tensors, {**self.provenance, "step": trainer.done})

    def _write_bridge(self, trainer: Trainer) -> None:
        for name, tower in self.towers.items():
            if not tower.unchanged():
                raise UserError(f"the frozen {name} changed in training, so no bridge was saved; please report this")
        if distributed.rank() == 0:
            tensors = {name: tensor.detach().cpu() for name, tensor in self.built.bridge.state_dict().items()}
            file, place = self._bridge(trainer, tensors), Path(self.config.output) / BRIDGE
            write_bridge(file, place, save_tokenizer=self.built.tokenizer.save, card=model_card(file.provenance))

    def scored(self, trainer: Trainer, figures: Mapping[str, Any]) -> None:
        """Keep the run as its best where the figure that `train.best` names says so."""
        name = self.config.train.best
        if name is None:
            return
        value = _figure(figures, name)
        if distributed.agree(int(distributed.rank() == 0 and self._is_best(value))):
            self.save(trainer)
            if distributed.rank() == 0:
                self.shelf.wait()
                self.shelf.mark_best(trainer.done, name, value)

    def _is_best(self, value: float) -> bool:
        """Whether a figure is better than the best that is kept; the first process alone can tell."""
        best, sign = self.shelf.best(), -1 if self.config.train.best_is == "lowest" else 1
        if best is not None and best["metric"] != self.config.train.best:
            best = None  # by another figure
        return math.isfinite(value) and (best is None or sign * value > sign * best["value"])


def _figure(figures: Mapping[str, Any], name: str) -> float:
    """A figure by its path, such as `text_to_image.R@1`."""
    found: Any = figures
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, int | float):
        known = ", ".join(sorted(_paths(figures)))
        raise ConfigError(f"`train.best` is {name}, which this run is not scored by; its figures are {known}")
    return float(found)


def _paths(figures: Mapping[str, Any], prefix: str = "") -> list[str]:
    paths = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            paths += _paths(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            paths.append(prefix + name)
    return paths

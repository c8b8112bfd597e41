"""What a run goes on from: the newest whole checkpoint in its `output`, or the one that it is told."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isthmus import distributed
from isthmus.build.going_on import weights_sum
from isthmus.build.keeping import OVERWRITTEN, open_shelf
from isthmus.build.workshop import Tower
from isthmus.checkpoints.shelf import Found
from isthmus.checkpoints.training import read_training
from isthmus.config.run import RunConfig
from isthmus.errors import CheckpointError, ConfigError


def find_checkpoint(config: RunConfig) -> Found | None:
    """Read what a run goes on from; None where it starts anew. The first process chooses for all.

    Raises `CheckpointError` where the checkpoint that the config names is damaged, or all that there are,
    `ConfigError` where it is of another run.
    """
    found = _newest(config) if config.resume is None or _restarted() else None
    if found is None and config.resume is not None:
        found = _read(Path(config.resume).expanduser())
    if found is not None:
        refuse_other_run(config, found.file.bridge.provenance, f"{found.folder} is a checkpoint of")
    return found


def _newest(config: RunConfig) -> Found | None:
    found: Found | None = None
    if distributed.rank() == 0:
        if config.overwrite and not _restarted():
            _put_aside(config)
        found = open_shelf(config).newest()
    chosen = distributed.gather_objects(None if found is None else str(found.folder))[0]
    if chosen is None or found is not None:
        return found
    if not Path(chosen).is_dir():
        raise CheckpointError(
            f"the first process goes on from {chosen}, which is not there for process {distributed.rank()}; keep "
            "`output` where all processes can read it"
        )
    return _read(Path(chosen))


def _put_aside(config: RunConfig) -> None:
    """Move an earlier run's checkpoints away: a launcher's restart of this one would take them for its own."""
    folder, aside = open_shelf(config).folder, Path(config.output) / OVERWRITTEN
    if folder.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)


def _read(folder: Path) -> Found:
    return Found(folder, read_training(folder), [])


def _restarted() -> bool:
    """Whether a launcher started this process anew after a fault: what it trained since is no earlier run."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def refuse_towers(found: Found, towers: Mapping[str, Tower]) -> None:
    """Raise `CheckpointError` where a checkpoint was made with other frozen models than are here now."""
    for name, tower in towers.items():
        before = found.file.bridge.provenance["towers"][name]["fingerprint"]
        if before != tower.fingerprint:
            raise CheckpointError(
                f"{found.folder} was trained with another {name} (fingerprint {before[:12]}, not "
                f"{tower.fingerprint[:12]}); give the one that it was made with"
            )


def refuse_other_run(config: RunConfig, provenance: Mapping[str, Any], what: str) -> None:
    """Raise `ConfigError` where a folder's bridge is of another run than a config asks for."""
    other = _difference(_known_by(config.given()), _known_by(provenance.get("given", {})))
    other = other or _other_origin(config, provenance.get("origin"))
    if other is not None:
        raise ConfigError(f"{what} a run with {other}; choose another `output`, or train over it with overwrite=true")


def _known_by(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, without what one process holds: the batch of all of them is compared when they are known."""
    train = {key: value for key, value in given.get("train", {}).items() if key != "batch_size"}
    return {**given, "train": train}


def _other_origin(config: RunConfig, origin: str | None) -> str | None:
    """What to say when a run went on from another bridge than is there now; one that is gone is no other."""
    now = None if config.init is None else weights_sum(Path(config.init.folder).expanduser())
    return None if now in (None, origin) else "another bridge in `init.from` than is there now"


def _difference(asked: dict[str, Any], done: dict[str, Any], prefix: str = "") -> str | None:
    """The first key in which two runs differ, with both values."""
    for key in sorted(asked.keys() | done.keys()):
        here, there = asked.get(key), done.get(key)
        if isinstance(here, dict) and isinstance(there, dict):
            if (inner := _difference(here, there, f"{prefix}{key}.")) is not None:
                return inner
        elif here != there:
            return f"`{prefix}{key}` {json.dumps(there)}, not {json.dumps(here)}"
    return None

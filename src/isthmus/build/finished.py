"""What a run's folder holds already: nothing, the run that is asked for, or the beginning of it."""

import json
from pathlib import Path
from typing import Any, Literal

from isthmus.build.bridge import BRIDGE
from isthmus.build.going_on import weights_sum
from isthmus.build.run import RECORD
from isthmus.checkpoints.native import read_bridge
from isthmus.config.run import RunConfig
from isthmus.errors import ConfigError


def look_back(config: RunConfig) -> Literal["new", "stopped", "done"]:
    """Say whether the run that a config asks for was made in its `output`, or begun and not finished.

    Raises `ConfigError` when the folder holds the bridge of another run, `CheckpointError` when that is damaged.
    """
    output = Path(config.output)
    if config.overwrite or not (output / BRIDGE).exists():
        return "new"
    provenance = read_bridge(output / BRIDGE).provenance
    other = _difference(config.given(), provenance.get("given", {})) or _other_origin(config, provenance.get("origin"))
    if other is not None:
        raise ConfigError(
            f"{output} holds a run with {other}; choose another `output`, or train over it with overwrite=true"
        )
    return "done" if (output / RECORD).is_file() else "stopped"


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

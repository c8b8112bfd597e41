"""What a run's folder holds already: nothing, the run that is asked for, or the beginning of it."""

from pathlib import Path
from typing import Literal

from isthmus.build.bridge import BRIDGE
from isthmus.build.keeping import holds_checkpoints
from isthmus.build.resuming import refuse_other_run
from isthmus.build.training import RECORD
from isthmus.checkpoints.native import read_bridge
from isthmus.config.run import RunConfig


def look_back(config: RunConfig) -> Literal["new", "stopped", "done"]:
    """Say whether the run that a config asks for was made in its `output`, or begun and not finished.

    Raises `ConfigError` when the folder holds the bridge of another run, `CheckpointError` when that is damaged.
    """
    output = Path(config.output)
    if config.overwrite:
        return "new"
    if (output / BRIDGE).exists():
        refuse_other_run(config, read_bridge(output / BRIDGE).provenance, f"{output} holds")
        return "done" if (output / RECORD).is_file() else "stopped"
    return "stopped" if holds_checkpoints(config) else "new"

"""A folder → the bridges in it: its own, that of a run, or those of the runs of both stages."""

from pathlib import Path

from isthmus.build.bridge import bridge_folder
from isthmus.checkpoints.native import CONFIG
from isthmus.errors import ConfigError

STAGES = {1: "stage1", 2: "stage2"}


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

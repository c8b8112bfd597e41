"""`isthmus features`: a recipe's pictures → its feature store, without training."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from isthmus.build.data import open_looks, open_sources, store_views
from isthmus.build.workshop import open_workshop
from isthmus.cli.ending import SOME_BROKEN
from isthmus.cli.inputs import broken_json, enough_memory, print_json, say
from isthmus.cli.show import quiet_libraries
from isthmus.config.run import RunConfig
from isthmus.config.stages import load_stages
from isthmus.errors import ConfigError
from isthmus.features.extract import planned_bytes
from isthmus.files import check_place
from isthmus.train.tracking import StoreProgress

_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class _Planned:
    """How large a store becomes if no two pictures are alike, and the room on its disk, in bytes."""

    folder: str
    pictures: int
    views: int
    dtype: str
    planned_bytes: int
    free_bytes: int

    def line(self) -> str:
        size, free = human(self.planned_bytes), human(self.free_bytes)
        views = f"{self.views} view{'s' if self.views > 1 else ''} each in {self.dtype}"
        return f"{self.folder}: {self.pictures} pictures, {views}: {size} at most in all; {free} are free"


def run_features(path: Path, overrides: list[str], *, dry_run: bool, as_json: bool) -> int:
    """Say how large the stores of a recipe become, then fill them; the stages of one file mostly share one.

    The exit code says whether some pictures could not be read.
    """
    quiet_libraries()
    done: list[RunConfig] = []
    code = 0
    for config in load_stages(path, overrides).runs:
        if any(_same_store(config, before) for before in done):
            continue
        told = _fill(config, path, dry_run=dry_run)
        done.append(config)
        code = SOME_BROKEN if told.get("broken") else code
        if as_json:
            print_json(told)
        elif not dry_run:
            size = human(told["stored_bytes"])
            typer.echo(f"{told['folder']}: {told['stored_pictures']} different pictures are stored, {size}")
    return code


def _fill(config: RunConfig, path: Path, *, dry_run: bool) -> dict[str, Any]:
    """Plan one store and fill it; what was planned and what is stored."""
    folder = _folder(config, path)
    check_place(folder / "manifest.json")
    sources = open_sources(config).both()
    workshop = open_workshop(config)
    views = store_views(config.features, workshop.compute)
    pictures = len({str(source[index].image) for source in sources for index in range(len(source))})
    size = planned_bytes(pictures, workshop.encoder, views)
    planned = _Planned(str(folder), pictures, views.count, views.dtype, size, shutil.disk_usage(_there(folder)).free)
    say(planned.line())
    if dry_run:
        return vars(planned)
    with StoreProgress() as progress, enough_memory("a smaller features.batch_size", "device=cpu"):
        looks = open_looks(config, workshop.encoder, sources, workshop.compute, progress=progress)
    store, broken = looks.store, list(looks.broken.bad.values())
    assert store is not None
    if broken:
        say(f"isthmus: {len(broken)} pictures could not be read; {looks.broken.file} names them")
    return {
        **vars(planned),
        "stored_pictures": len(store),
        "stored_bytes": store.size,
        "broken": broken_json(broken),
    }


def _same_store(one: RunConfig, other: RunConfig) -> bool:
    """True where two stages read the same pictures from the same store."""
    return one.features == other.features and one.data == other.data and one.shares_encoder(other)


def human(size: int) -> str:
    """Bytes in the largest unit that leaves 1 or more."""
    number, unit = float(size), 0
    while number >= 1000 and unit < len(_UNITS) - 1:
        number, unit = number / 1000, unit + 1
    return f"{number:.3g} {_UNITS[unit]}"


def _folder(config: RunConfig, path: Path) -> Path:
    if config.features.folder is None:
        raise ConfigError(f"{path} names no feature store, it trains from pixels; add features.folder=FOLDER")
    return Path(config.features.folder).expanduser()


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.resolve().parents) if place.exists())

"""`isthmus features`: a recipe's pictures → its feature store, without training."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import typer

from isthmus.build.data import open_looks, open_source, store_views
from isthmus.build.workshop import open_workshop
from isthmus.cli.inputs import enough_memory, print_json, say
from isthmus.cli.show import quiet_libraries
from isthmus.config.run import RunConfig, load_config
from isthmus.errors import ConfigError
from isthmus.features.extract import planned_bytes
from isthmus.tasks.output import check_place
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


def run_features(path: Path, overrides: list[str], *, dry_run: bool, as_json: bool) -> None:
    """Say how large the store of a recipe becomes, then fill it."""
    quiet_libraries()
    config = load_config(path, overrides)
    folder = _folder(config, path)
    check_place(folder / "manifest.json")
    sources = [open_source(given) for given in (config.data.train, config.data.evaluation) if given is not None]
    workshop = open_workshop(config)
    views = store_views(config.features, workshop.compute)
    pictures = len({str(source[index].image) for source in sources for index in range(len(source))})
    size = planned_bytes(pictures, workshop.encoder, views)
    planned = _Planned(str(folder), pictures, views.count, views.dtype, size, shutil.disk_usage(_there(folder)).free)
    say(planned.line())
    if dry_run:
        if as_json:
            print_json(vars(planned))
        return
    with StoreProgress() as progress, enough_memory():
        store = open_looks(config, workshop.encoder, sources, workshop.compute, progress=progress).store
    assert store is not None
    if as_json:
        print_json({**vars(planned), "stored_pictures": len(store), "stored_bytes": store.size})
    else:
        typer.echo(f"{folder}: {len(store)} different pictures are stored, {human(store.size)}")


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

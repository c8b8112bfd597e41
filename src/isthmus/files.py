"""Places that can be written; files that are there whole or not at all, and on the disk rather than in a cache."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from isthmus.errors import UserError


def check_place(path: Path) -> None:
    """See that a file can be written here, or its folder made; raises UserError where not. Leaves no trace."""
    place = path.parent
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            if path.exists():
                path.open("r+b").close()
    except OSError as problem:
        raise UserError(f"{path} cannot be written ({problem.strerror}); choose another output") from problem


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, then give it its name.

    Whatever interrupts it, KeyboardInterrupt included, no half file stands under `path`.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it lies in, with their names on the disk."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        flush(place.parent)


def flush_tree(folder: Path) -> None:
    """Wait until all files of a folder, those of folders in it, and all their names are on the disk."""
    for path in folder.rglob("*"):
        if path.is_file() or path.is_dir():
            flush(path)
    flush(folder)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

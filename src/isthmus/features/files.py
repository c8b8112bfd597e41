"""Files that are there whole or not at all, and the hashes of pictures' bytes."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from isthmus.errors import DataError
from isthmus.fingerprint import file_sha256

_HASHING_THREADS = 4


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, then give it its name.

    Whatever interrupts it, KeyboardInterrupt included, no half file stands under `path`.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        _flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def picture_hashes(images: Iterable[Path]) -> list[str]:
    """Hash each picture's bytes by sha256, in order; raises DataError for a file that cannot be read."""
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        return list(pool.map(_picture_hash, images))


def _picture_hash(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise DataError(f"{path}: the picture cannot be read ({error.strerror or error}).") from error

"""Pictures known by their bytes, wherever they lie and whatever they are called."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from isthmus.errors import DataError
from isthmus.fingerprint import file_sha256
from isthmus.records import PictureBytes

_THREADS = 4


def picture_hashes(images: Iterable[Path | PictureBytes]) -> list[str]:
    """Hash each picture's bytes by sha256, in order; raises DataError for one that cannot be read."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(_hash, images))


def known_hashes(images: Iterable[Path | PictureBytes]) -> list[str | None]:
    """Hash each picture's bytes, in order, with None for one that cannot be read."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(_hash_if_any, images))


def _hash(picture: Path | PictureBytes) -> str:
    try:
        if isinstance(picture, Path):
            return file_sha256(picture)
        return hashlib.sha256(picture.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{picture}: the picture cannot be read ({error.strerror or error}).") from error


def _hash_if_any(picture: Path | PictureBytes) -> str | None:
    try:
        return _hash(picture)
    except DataError:
        return None

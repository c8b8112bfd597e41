"""Text files beside pictures: which one is a picture's, and what it says."""

from collections.abc import Iterable
from pathlib import Path

from isthmus.data.sidecar import TEXT
from isthmus.errors import DataError
from isthmus.tasks.folder import Picture, location


def texts_beside(pictures: Iterable[Picture]) -> dict[Path, Path]:
    """The text file of each picture, by the picture's location: the one that is there, whichever case its ending has.

    Raises DataError where two pictures would share one, where there are two for one picture, and where no text can
    stand because a folder or the picture itself has that name.
    """
    found: dict[Path, Path] = {}
    owners: dict[Path, Picture] = {}
    listed: dict[Path, dict[str, list[Path]]] = {}
    for picture in pictures:
        folder = picture.path.parent
        if folder not in listed:
            listed[folder] = _texts_in(folder)
        path = _text_of(picture, listed[folder])
        other = owners.setdefault(location(path), picture)
        if other is not picture:
            raise DataError(f"{other.path} and {picture.path} would share {path}; rename one, or write JSON lines")
        found[location(picture.path)] = path
    for place in owners.keys() & found.keys():
        raise DataError(f"{place} is a picture and would be written over by a text; rename it, or write JSON lines")
    return found


def captions_in(path: Path) -> list[str]:
    """The captions of a text file as they stand there, one a line; raises DataError for one that is not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise DataError(f"{path} is no text in UTF-8, so nothing can be added to it; move it away") from problem
    return [line for line in text.split("\n") if line.strip()]


def has_caption(path: Path) -> bool:
    """True for a file that holds more than white space, whatever its encoding; raises DataError for a closed one."""
    try:
        return bool(path.read_bytes().removeprefix(b"\xef\xbb\xbf").strip())
    except FileNotFoundError:
        return False
    except OSError as problem:
        raise DataError(f"{path} cannot be read ({problem.strerror}); mend its permissions") from problem


def _texts_in(folder: Path) -> dict[str, list[Path]]:
    """What ends like a text file in a folder, by stem."""
    texts: dict[str, list[Path]] = {}
    try:
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() == TEXT:
                texts.setdefault(path.stem, []).append(path)
    except OSError as problem:
        raise DataError(f"{folder}: the folder cannot be read ({problem.strerror}); mend its permissions") from problem
    return texts


def _text_of(picture: Picture, texts: dict[str, list[Path]]) -> Path:
    wanted = picture.path.with_suffix(TEXT)
    there = texts.get(wanted.stem, [wanted])
    if len(there) > 1:
        names = " and ".join(path.name for path in there)
        raise DataError(f"{picture.path} has two texts beside it, {names}; keep one of them")
    if there[0].exists() and not there[0].is_file():
        raise DataError(f"{there[0]} is no file, so the caption of {picture.path} cannot be written; move it away")
    return there[0]

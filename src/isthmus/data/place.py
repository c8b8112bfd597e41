"""What lies at a path, in one sentence where that cannot be told: the look at files before any is read in earnest."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from isthmus.errors import DataError


def kind_at(path: Path, where: str | None = None) -> Literal["file", "folder", "other"] | None:
    """What lies at a path, None for nothing; `where` names the place that speaks of it.

    Raises DataError where that cannot be told: a folder on the way that is closed, a name too long.
    """
    try:
        if path.is_file():
            return "file"
        return "folder" if path.is_dir() else "other" if path.exists() else None
    except OSError as error:
        begins = "" if where is None else f"{where}: "
        reason = f"cannot be looked at ({error.strerror}); mend the path or its permissions."
        raise DataError(f"{begins}{path} {reason}") from error


def check_folder(folder: Path, wanted: str) -> None:
    """Refuse a folder that is missing, closed or empty; `wanted` says what should be in it."""
    if kind_at(folder) != "folder":
        raise DataError(f"{folder}: there is no such folder; give the folder that holds the pictures.")
    try:
        empty = not any(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be read ({error.strerror}); mend its permissions.") from error
    if empty:
        raise DataError(f"{folder}: the folder is empty; put pictures and {wanted} into it.")


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder that is not hidden, each folder's own before those of its folders, by name.

    Links to folders are not followed. Raises DataError naming a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: the folder cannot be read ({error.strerror}); mend its permissions.")

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a file in UTF-8, one by one, ended as on any system.

    Raises DataError with the path and the line for what is none.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                yield from decode_line(raw, f"{path}, line {number}").split("\r")
    except OSError as error:
        raise unreadable(path, error) from error


def decode_line(raw: bytes, where: str) -> str:
    """A line as text, without its byte order mark; raises DataError for what is not UTF-8."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: the line is not UTF-8; save the file as UTF-8.") from error
    if "\0" in text:  # bytes of UTF-16 without its mark, or what a full disk left
        raise DataError(f"{where}: the line holds NUL bytes; save the file as UTF-8, or write it again.")
    return text


def unreadable(path: Path, error: OSError) -> DataError:
    """What to say of a file that is there and cannot be read."""
    return DataError(f"{path}: the file cannot be read ({error.strerror or error}); mend it or its permissions.")

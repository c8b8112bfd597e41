"""Metadata files → entries: JSON lines, one for each picture, or CSV, one for each caption."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isthmus.data.entries import kind_of, read_captions, read_id, read_name, required
from isthmus.errors import DataError

CSV_COLUMNS = ("file_name", "text")


@dataclass(frozen=True)
class Entry:
    """What a metadata file says of one picture; `where` names the place it is said."""

    where: str
    name: str
    image_id: str | None
    captions: tuple[str, ...]


def read_metadata(path: Path) -> Iterator[Entry]:
    """Read a metadata file, CSV where its name ends so and JSON lines otherwise, in the order of its pictures.

    Raises DataError with the path, the line and what to do for all that is not as it must be.
    """
    yield from _read_csv(path) if path.suffix.lower() == ".csv" else _read_json_lines(path)


def _read_json_lines(path: Path) -> Iterator[Entry]:
    first_line: dict[str, int] = {}
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            where = f"{path}, line {number}"
            entry = _parse(raw, where)
            name = read_name(required(entry, "file_name", where), where)
            if name in first_line:
                raise DataError(
                    f"{where}: {name!r} stands in line {first_line[name]} already; give a picture one "
                    'line, with all its captions as a list under "text".'
                )
            first_line[name] = number
            image_id = read_id(entry["image_id"], where) if "image_id" in entry else None
            yield Entry(where, name, image_id, read_captions(required(entry, "text", where), where))
    if not first_line:
        raise DataError(f"{path}: the file has no line; write one JSON object for each picture.")


def _parse(raw: bytes, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: the line is not UTF-8; save the file as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: the line is no valid JSON ({error}); write one object a line.") from error
    if not isinstance(entry, dict):
        raise DataError(f"{where}: the line holds {kind_of(entry)}; write a JSON object in braces.")
    return entry


def _read_csv(path: Path) -> Iterator[Entry]:
    """Rows of one file name are its several captions, wherever they stand."""
    entries: dict[str, Entry] = {}
    for where, row in _csv_rows(path):
        name, given = read_name(row["file_name"], where), row.get("image_id")
        image_id = read_id(given, where) if given else None
        entry = Entry(where, name, image_id, read_captions(row["text"], where))
        before = entries.setdefault(name, entry)
        if before is not entry:
            if before.image_id != image_id:
                raise DataError(f"{where}: {name!r} has another image_id than at {before.where}; give it the same.")
            entries[name] = replace(before, captions=before.captions + entry.captions)
    if not entries:
        raise DataError(f"{path}: the file has no row; write one for each caption.")
    yield from entries.values()


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row with its place, checked to have as many fields as the header."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            _check_columns(path, list(rows.fieldnames or []))
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if None in row or None in row.values():
                    raise DataError(f"{where}: the row has not as many fields as the header; quote texts with commas.")
                yield where, row
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the file is not UTF-8; save it as UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.reader.line_num}: the row is no valid CSV ({error}); mend it.") from error


def _check_columns(path: Path, columns: list[str]) -> None:
    for column in CSV_COLUMNS:
        if column not in columns:
            there = ", ".join(columns) or "none"
            raise DataError(f"{path}: there is no column {column!r}; the columns there are: {there}.")

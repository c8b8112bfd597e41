"""Metadata files → entries: JSON lines, one for each picture, or CSV, one for each caption."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isthmus.data.csv_rows import csv_rows
from isthmus.data.entries import QUESTION, kind_of, read_captions, read_id, read_name, read_questions, required
from isthmus.data.place import decode_line, unreadable
from isthmus.errors import DataError

CSV_COLUMNS = ("file_name", "text")


@dataclass(frozen=True)
class Entry:
    """What a metadata file says of one picture; `where` names the place it is said.

    `questions` are what the captions answer, one for each, or none.
    """

    where: str
    name: str
    image_id: str | None
    captions: tuple[str, ...]
    questions: tuple[str, ...] = ()


def read_metadata(path: Path) -> Iterator[Entry]:
    """Read a metadata file, CSV where its name ends so and JSON lines otherwise, in the order of its pictures.

    Raises DataError with the path, the line and what to do for all that is not as it must be.
    """
    yield from _read_csv(path) if path.suffix.lower() == ".csv" else _read_json_lines(path)


def _read_json_lines(path: Path) -> Iterator[Entry]:
    first_line: dict[str, int] = {}
    first: Entry | None = None
    for number, raw in _lines(path):
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
        read = _with_questions(
            Entry(where, name, image_id, read_captions(required(entry, "text", where), where)), entry.get(QUESTION)
        )
        first = first or read
        if bool(read.questions) != bool(first.questions):
            here, there = ("a question", "none") if read.questions else ("no question", "one")
            raise DataError(
                f"{where}: there is {here}, and {there} at {first.where}; give one to all texts or to none."
            )
        yield read
    if first is None:
        raise DataError(f"{path}: the file has no line; write one JSON object for each picture.")


def _with_questions(entry: Entry, given: object) -> Entry:
    """An entry with the questions that its captions answer; None: there are none."""
    if given is None:
        return entry
    return replace(entry, questions=read_questions(given, entry.where, len(entry.captions)))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line that is not blank, with its number."""
    try:
        with path.open("rb") as file:
            yield from ((number, raw) for number, raw in enumerate(file, start=1) if raw.strip())
    except OSError as error:
        raise unreadable(path, error) from error


def _parse(raw: bytes, where: str) -> dict[str, Any]:
    text = decode_line(raw, where)
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: the line is no valid JSON ({error}); write one object a line.") from error
    if not isinstance(entry, dict):
        raise DataError(f"{where}: the line holds {kind_of(entry)}; write a JSON object in braces.")
    return entry


def _read_csv(path: Path) -> Iterator[Entry]:
    """Rows of one file name are its several captions, wherever they stand."""
    entries: dict[str, Entry] = {}
    for where, row in csv_rows(path, CSV_COLUMNS):
        name, given = read_name(row["file_name"], where), row.get("image_id")
        image_id = read_id(given, where) if given else None
        entry = _with_questions(Entry(where, name, image_id, read_captions(row["text"], where)), row.get(QUESTION))
        before = entries.setdefault(name, entry)
        if before is not entry:
            if before.image_id != image_id:
                raise DataError(f"{where}: {name!r} has another image_id than at {before.where}; give it the same.")
            captions, questions = before.captions + entry.captions, before.questions + entry.questions
            entries[name] = replace(before, captions=captions, questions=questions)
    if not entries:
        raise DataError(f"{path}: the file has no row; write one for each caption.")
    yield from entries.values()

"""CSV files → rows of text, with the place of each. Nothing is guessed: 007 stays 007."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from isthmus.data.place import text_lines
from isthmus.errors import DataError


def csv_rows(path: Path, wanted: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row with its place, checked to have as many fields as the header; blank lines are passed over.

    Raises DataError with the path and the line for what is no text in UTF-8 or no CSV, and for a column of `wanted`
    that is missing or stands twice.
    """
    for _ in text_lines(path):
        pass  # so that what is no text is named by its line; the reader below meets it in blocks
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            _check_columns(path, list(rows.fieldnames or []), wanted)
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if None in row or None in row.values():
                    raise DataError(f"{where}: the row has not as many fields as the header; quote texts with commas.")
                yield where, row
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.reader.line_num}: the row is no valid CSV ({error}); mend it.") from error


def _check_columns(path: Path, there: Sequence[str], wanted: Sequence[str]) -> None:
    for column in wanted:
        if column not in there:
            named = ", ".join(there) or "none"
            raise DataError(f"{path}: there is no column {column!r}; the columns there are: {named}.")
        if there.count(column) > 1:
            raise DataError(f"{path}: the column {column!r} stands there twice; rename one of them.")

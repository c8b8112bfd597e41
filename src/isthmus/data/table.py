"""A table with a column of pictures and a column of captions: a parquet or CSV file, or a dataset of the Hub.

The only place that knows the library `datasets` (extra `table`), which maps parquet into memory: pictures that lie in
the table are read one by one, when they are asked for. CSV holds paths and is read without it: it would take 007 for
a number, which is a name like any other.
"""

from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isthmus.data.csv_rows import csv_rows
from isthmus.data.entries import QUESTION, is_path, kind_of, read_captions, read_id, read_name, read_questions
from isthmus.data.hashes import known_hashes
from isthmus.data.place import kind_at, unreadable
from isthmus.errors import DataError
from isthmus.records import Example, PictureBytes

HUB = "hub:"
_CSV, _PARQUET = ".csv", ".parquet"
_REASON = 200


@dataclass(frozen=True)
class Columns:
    """Which columns hold pictures, captions and, if there are such, ids of the thing pictured and questions.

    Without a name for it, a column `question` that is nothing else holds questions.
    """

    image: str = "image"
    text: str = "text"
    id: str | None = None
    question: str | None = None

    def named(self) -> list[str]:
        """The columns that must be there."""
        return [name for name in (self.image, self.text, self.id, self.question) if name is not None]

    def question_in(self, there: Container[str]) -> str | None:
        """The column of questions among those that are there; None where there is none."""
        return self.question or (QUESTION if QUESTION in there and QUESTION not in self.named() else None)


@dataclass(frozen=True)
class TablePicture:
    """A picture in a table's row: its bytes, or the path of a file that has them; read when asked for."""

    column: Any
    row: int
    name: str
    folder: Path

    def __str__(self) -> str:
        return self.name

    def read_bytes(self) -> bytes:
        """Read the picture's bytes; raises DataError where the row holds none, OSError for a file that is gone."""
        given = self.column[self.row]["image"]
        content = given.get("bytes") if isinstance(given, dict) else given
        if isinstance(content, bytes):
            return content
        if content is None and isinstance(given, dict) and is_path(given.get("path") or ""):
            return Path(self.folder, given["path"]).read_bytes()
        raise DataError(f"{self.name}: the picture is {kind_of(content)}; a table holds a picture's bytes or its path.")


class TableSource:
    """The rows of a table, in their order; a `Source`.

    `table` is the path of a file that ends in .parquet or .csv, or `hub:NAME@REVISION`. Pictures are bytes, as the
    Image feature of `datasets` or alone, or paths within the file's folder; captions a string or a list of them, and
    so are questions: a string is that of all captions of the row.
    Without a column of ids, rows with the same path or the same bytes are the same thing; to know, every picture is
    read once. Rows are counted from 0, lines of CSV from 1. `check_files` is as in `ImageFolder`.

    Raises DataError for a table that cannot be read, an unknown split or column, and a row that is not as it must be.
    """

    def __init__(
        self, table: str, split: str = "train", columns: Columns = Columns(), *, check_files: bool = True
    ) -> None:
        self.table = table
        is_csv = not table.startswith(HUB) and _check_file(table).suffix.lower() == _CSV
        read = _csv_examples if is_csv else _examples
        self._examples = tuple(read(table, split, columns, check_files))

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]


def _csv_examples(table: str, split: str, columns: Columns, check_files: bool) -> Iterator[Example]:
    if split != "train":
        raise _no_split(table, split, "train")
    row = None
    for where, row in csv_rows(Path(table), columns.named()):
        image = _path(row[columns.image], table, where, check_files)
        thing = read_id(row[columns.id], where, columns.id) if columns.id else _within(table, image)
        captions = read_captions(row[columns.text], where, columns.text)
        question = columns.question_in(row)
        questions = read_questions(row[question], where, len(captions), question) if question else ()
        yield Example(image, thing, captions, questions)
    if row is None:
        raise _empty(table)


def _examples(table: str, split: str, columns: Columns, check_files: bool) -> Iterator[Example]:
    data = _load(table, split)
    _check_columns(table, data.column_names, columns)
    captions = [
        read_captions(given, f"{table}, row {row}", columns.text) for row, given in enumerate(data[columns.text])
    ]
    images = _images(data, table, columns.image, check_files)
    questions = _questions(data, table, columns, captions)
    yield from map(Example, images, _ids(data, table, columns, images), captions, questions)


def _load(table: str, split: str) -> Any:
    """Open one split through `datasets`, which keeps a copy of it in its cache."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{table}: tables need the package datasets; install isthmus[table].") from error
    name, _, revision = table.removeprefix(HUB).partition("@")
    if not name:
        raise DataError(f"{table}: the name of the dataset is missing; give hub:NAME@REVISION.")
    with _quiet(datasets):
        try:
            if table.startswith(HUB):
                return datasets.load_dataset(name, split=split, revision=revision or None)
            _check_rows(table)
            return datasets.load_dataset("parquet", data_files=table, split=split)
        except DataError:
            raise
        except Exception as error:  # of the Hub, pyarrow, pandas and datasets, each with kinds of its own
            raise _cannot_load(table, split, error) from error


def _check_file(table: str) -> Path:
    path = Path(table)
    kind = kind_at(path)
    if kind == "folder":
        raise DataError(f"{table}: this is a folder; give the path of a table in it, a file.")
    if path.suffix.lower() not in (_CSV, _PARQUET):
        raise DataError(f"{table}: a table is a file that ends in .parquet or .csv, or hub:NAME@REVISION.")
    if kind != "file":
        raise DataError(f"{table}: there is no such file; give the path of a table.")
    try:
        path.open("rb").close()
    except OSError as error:
        raise unreadable(path, error) from error
    return path


def _check_rows(table: str) -> None:
    from pyarrow.parquet import read_metadata

    if not read_metadata(table).num_rows:
        raise _empty(table)


def _cannot_load(table: str, split: str, error: Exception) -> DataError:
    message = str(error)
    if "Unknown split" in message:
        there = message.partition("one of ")[2].strip("[].").replace("'", "")
        return _no_split(table, split, there)
    if "corresponds to no data" in message:
        return _empty(table)
    reason = " ".join(str(error.__cause__ or error).split())[:_REASON]
    return DataError(f"{table}: the table cannot be read ({reason}); check its name, or write it again.")


def _no_split(table: str, split: str, there: str) -> DataError:
    return DataError(f"{table}: there is no split {split!r}; the splits there are: {there}.")


def _empty(table: str) -> DataError:
    return DataError(f"{table}: the table has no row; give one with pictures and captions.")


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Without the library's bars and its own account of errors, which end as one sentence here."""
    level, bars = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()


def _check_columns(table: str, there: list[str], columns: Columns) -> None:
    for column in columns.named():
        if column not in there:
            raise DataError(f"{table}: there is no column {column!r}; the columns there are: {', '.join(there)}.")


def _images(data: Any, table: str, column: str, check_files: bool) -> list[Path | PictureBytes]:
    """A path for every row, or a picture that knows its row."""
    if getattr(data.features[column], "dtype", None) in ("string", "large_string"):
        return [_path(given, table, f"{table}, row {row}", check_files) for row, given in enumerate(data[column])]
    if hasattr(data.features[column], "decode"):
        from datasets import Image

        data = data.cast_column(column, Image(decode=False))
    pictures = data.select_columns([column]).rename_columns({column: "image"})
    folder = Path() if table.startswith(HUB) else Path(table).parent
    return [TablePicture(pictures, row, f"{table}, row {row}", folder) for row in range(len(data))]


def _path(given: object, table: str, where: str, check_files: bool) -> Path:
    if table.startswith(HUB):
        raise DataError(f"{where}: the pictures are paths; a dataset of the Hub must hold the pictures themselves.")
    path = Path(table).parent / read_name(given, where, "image")
    if check_files and kind_at(path, where) != "file":
        raise DataError(f"{where}: there is no file {path}; add the picture or remove the row.")
    return path


def _ids(data: Any, table: str, columns: Columns, images: list[Path | PictureBytes]) -> list[str]:
    if columns.id is not None:
        return [read_id(given, f"{table}, row {row}", columns.id) for row, given in enumerate(data[columns.id])]
    if isinstance(images[0], Path):
        return [_within(table, path) for path in images if isinstance(path, Path)]
    return [known or f"row {row}" for row, known in enumerate(known_hashes(images))]


def _questions(data: Any, table: str, columns: Columns, captions: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """What each row's captions answer; nothing where there is no column of questions."""
    column = columns.question_in(data.column_names)
    if column is None:
        return [()] * len(captions)
    return [
        read_questions(given, f"{table}, row {row}", len(answers), column)
        for row, (given, answers) in enumerate(zip(data[column], captions, strict=True))
    ]


def _within(table: str, path: Path) -> str:
    """A picture's path within the folder of its table."""
    return path.relative_to(Path(table).parent).as_posix()

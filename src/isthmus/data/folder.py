"""A folder of pictures with a JSON-lines file of captions beside them.

    pictures/
    ├── metadata.jsonl     {"file_name": "a/1.jpg", "text": "a red boat"}
    └── a/1.jpg            {"file_name": "a/2.jpg", "text": ["two oars", "oars"], "image_id": "17"}

The layout is that of Hugging Face's ImageFolder, so such a folder serves both; further keys are ignored.
"""

import json
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isthmus.data.text import normalise
from isthmus.errors import DataError
from isthmus.records import Example


class ImageFolder:
    """The captioned pictures of a folder, in the order of the lines of its metadata; a `Source`.

    `file_name` is relative to the folder, `text` a caption or a list of them, `image_id` (a string or an
    integer, optional) names the thing pictured and is the file name where it is missing. Captions come
    normalised. Every picture's file must be there; none is opened.

    Raises DataError with the path, the line and what to do for anything else.
    """

    def __init__(self, folder: Path | str, metadata: str = "metadata.jsonl") -> None:
        self.folder = Path(folder)
        self.metadata = self.folder / metadata
        _check_folder(self.folder, self.metadata)
        self._examples = tuple(self._read())
        if not self._examples:
            raise DataError(f"{self.metadata}: the file has no line; write one JSON object for each picture.")

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]

    def _read(self) -> Iterator[Example]:
        first_line: dict[str, int] = {}
        with self.metadata.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.strip():
                    continue
                where = f"{self.metadata}, line {number}"
                entry = _parse(raw, where)
                name = _file_name(entry, where)
                if name in first_line:
                    raise DataError(
                        f"{where}: {name!r} stands in line {first_line[name]} already; give a picture one "
                        'line, with all its captions as a list under "text".'
                    )
                first_line[name] = number
                path = self.folder / name
                if not path.is_file():
                    raise DataError(f"{where}: there is no file {path}; add the picture or remove the line.")
                yield Example(path, _image_id(entry, name, where), _captions(entry, where))


def _check_folder(folder: Path, metadata: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; give the folder that holds the pictures.")
    if not any(folder.iterdir()):
        raise DataError(f"{folder}: the folder is empty; put pictures and {metadata.name} into it.")
    if not metadata.is_file():
        raise DataError(
            f"{folder}: there is no {metadata.name} in it; write one, a line for each picture, such as "
            '{"file_name": "1.jpg", "text": "a red boat"}.'
        )


def _parse(raw: bytes, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: the line is not UTF-8; save the file as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: the line is no valid JSON ({error}); write one object a line.") from error
    if not isinstance(entry, dict):
        raise DataError(f"{where}: the line holds {_kind(entry)}; write a JSON object in braces.")
    return entry


def _kind(value: object) -> str:
    names = {str: "a string", bool: "a boolean", list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), "a number")


def _required(entry: dict[str, Any], key: str, where: str) -> Any:
    if key not in entry:
        raise DataError(f'{where}: the key "{key}" is missing; add it.')
    return entry[key]


def _file_name(entry: dict[str, Any], where: str) -> str:
    """The picture's path within the folder, in its normal form."""
    given = _required(entry, "file_name", where)
    if not isinstance(given, str):
        raise DataError(f'{where}: "file_name" is {_kind(given)}; give the path as a string.')
    if not given.strip() or "\0" in given:
        raise DataError(f'{where}: "file_name" is empty or no path; give the path within the folder.')
    name = posixpath.normpath(given)
    if posixpath.isabs(name) or name.split("/")[0] == "..":
        raise DataError(f'{where}: "file_name" {given!r} leaves the folder; give a path within the folder.')
    return name


def _image_id(entry: dict[str, Any], name: str, where: str) -> str:
    given = entry.get("image_id", name)
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise DataError(f'{where}: "image_id" is {_kind(given)}; give a string or an integer.')
    if isinstance(given, str) and not given.strip():
        raise DataError(f'{where}: "image_id" is empty; give a name or leave the key out.')
    return str(given)


def _captions(entry: dict[str, Any], where: str) -> tuple[str, ...]:
    given = _required(entry, "text", where)
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list):
        raise DataError(f'{where}: "text" is {_kind(given)}; give a string or a list of strings.')
    if not texts:
        raise DataError(f'{where}: "text" is an empty list; give at least one caption.')
    return tuple(_caption(text, where) for text in texts)


def _caption(text: object, where: str) -> str:
    if not isinstance(text, str):
        raise DataError(f'{where}: a caption under "text" is {_kind(text)}; give strings only.')
    caption = normalise(text)
    if not caption:
        raise DataError(f"{where}: a caption is empty or only white space; write it or remove it.")
    if not caption.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in caption):
        raise DataError(f"{where}: a caption holds half a surrogate pair; write the character whole.")
    return caption

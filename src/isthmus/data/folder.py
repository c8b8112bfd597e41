"""A folder of pictures with a metadata file of captions beside them.

    pictures/
    ├── metadata.jsonl     {"file_name": "a/1.jpg", "text": "a red boat"}
    └── a/1.jpg            {"file_name": "a/2.jpg", "text": ["two oars", "oars"], "image_id": "17"}

or `metadata.csv` with the columns file_name, text and, optionally, image_id and question. The layout is that of
Hugging Face's ImageFolder, so such a folder serves both; further keys and columns are ignored.
"""

from collections.abc import Iterator
from pathlib import Path

from isthmus.data.metadata import read_metadata
from isthmus.data.place import check_folder, kind_at
from isthmus.errors import DataError
from isthmus.records import Example

METADATA = ("metadata.jsonl", "metadata.csv")


class ImageFolder:
    """The captioned pictures of a folder, in the order of its metadata; a `Source`.

    `file_name` is relative to the folder, `text` a caption or a list of them, `image_id` (a string or an
    integer, optional) names the thing pictured and is the file name where it is missing. `question` (optional, then
    in every line) is what the texts answer: one for all of a line, or a list with one for each. All come normalised.
    Without `metadata`, that is `metadata.jsonl`, or `metadata.csv` where there is no such file.
    Every picture's file must be there, unless `check_files` is off; none is opened.

    Raises DataError with the path, the line and what to do for anything else.
    """

    def __init__(self, folder: Path | str, metadata: str | None = None, *, check_files: bool = True) -> None:
        self.folder = Path(folder)
        self.metadata = _find(self.folder, metadata)
        self._examples = tuple(self._read(check_files))

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]

    def _read(self, check_files: bool) -> Iterator[Example]:
        for entry in read_metadata(self.metadata):
            path = self.folder / entry.name
            if check_files and kind_at(path, entry.where) != "file":
                raise DataError(f"{entry.where}: there is no file {path}; add the picture or remove the line.")
            yield Example(path, entry.image_id or entry.name, entry.captions, entry.questions)


def _find(folder: Path, metadata: str | None) -> Path:
    names = METADATA if metadata is None else (metadata,)
    check_folder(folder, names[0])
    kinds = {folder / name: kind_at(folder / name) for name in names}
    for path, kind in kinds.items():
        if kind == "file":
            return path
    for path, kind in kinds.items():
        if kind is not None:
            raise DataError(f"{path}: this is no file; the metadata are a file of JSON lines, or CSV; write one.")
    raise DataError(
        f"{folder}: there is no {names[0]} in it; write one, a line for each picture, such as "
        '{"file_name": "1.jpg", "text": "a red boat"}, or a CSV file with the columns file_name and text.'
    )

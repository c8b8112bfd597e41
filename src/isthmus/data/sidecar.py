"""A folder of pictures, each with its captions in a text file beside it.

pictures/
├── a/1.jpg
└── a/1.txt     one caption a line
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from isthmus.data.entries import read_captions
from isthmus.data.image import SUFFIXES
from isthmus.data.place import check_folder, files_below, kind_at, text_lines
from isthmus.errors import DataError
from isthmus.records import Example

TEXT = ".txt"
"""How names of texts end, in either case."""

_log = logging.getLogger(__name__)


class SidecarFolder:
    """The pictures of a folder and of all below it, in the order of their paths; a `Source`.

    `a/1.jpg` has its captions in `a/1.txt` (or `a/1.TXT`: the ending's case is free), one a line, in UTF-8; its path
    within the folder is its `image_id`. Files of other kinds are passed over, and counted in a line of the log; so is
    what begins with a dot. No picture is opened.

    Raises DataError naming a picture without text, a text without picture, two texts of one picture, a text without a
    caption, and what cannot be read.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        check_folder(self.folder, "their texts")
        names, others = self._names()
        pictures = [name for name in names if name.suffix.lower() in SUFFIXES]
        if not pictures:
            endings = ", ".join(SUFFIXES)
            raise DataError(f"{self.folder}: there is no picture in it; the names of pictures end in {endings}.")
        texts = _texts(self.folder, names)
        _refuse_unpaired(self.folder, pictures, texts)
        _log.info("%s: %d pictures with texts; %s", self.folder, len(pictures), _passed_over(others))
        self._examples = tuple(self._example(name, texts[name.with_suffix("")]) for name in pictures)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]

    def _names(self) -> tuple[list[Path], list[Path]]:
        """Pictures and texts, and all other files, by their paths within the folder."""
        known: list[Path] = []
        others: list[Path] = []
        for path in sorted(files_below(self.folder)):
            if kind_at(path) == "file":
                name = path.relative_to(self.folder)
                (known if name.suffix.lower() in (*SUFFIXES, TEXT) else others).append(name)
        return known, others

    def _example(self, name: Path, text: Path) -> Example:
        path = self.folder / text
        lines = [line for line in text_lines(path) if line.strip()]
        if not lines:
            raise DataError(f"{path}: there is no caption in it; write one a line, or remove the picture.")
        return Example(self.folder / name, name.as_posix(), read_captions(lines, str(path)))


def _texts(folder: Path, names: Iterable[Path]) -> dict[Path, Path]:
    """The text files among some names, by their stems."""
    found: dict[Path, Path] = {}
    for name in names:
        if name.suffix.lower() == TEXT:
            other = found.setdefault(name.with_suffix(""), name)
            if other is not name:
                raise DataError(f"{folder / other}: {name.name} is a text of the same picture; keep one of them.")
    return found


def _refuse_unpaired(folder: Path, pictures: Iterable[Path], texts: Mapping[Path, Path]) -> None:
    by_stem: dict[Path, list[Path]] = defaultdict(list)
    for picture in pictures:
        by_stem[picture.with_suffix("")].append(picture)
    for stem, sharing in by_stem.items():
        if len(sharing) > 1:
            raise DataError(f"{folder / sharing[0]}: {sharing[1].name} has the same text file; rename one of them.")
        if stem not in texts:
            raise DataError(f"{folder / sharing[0]}: there is no {stem.name}.txt beside it; write its captions there.")
    for stem in sorted(set(texts) - set(by_stem)):
        raise DataError(
            f"{folder / texts[stem]}: there is no picture of that name beside it; add it or remove the text."
        )


def _passed_over(others: list[Path]) -> str:
    return f"{len(others)} other files passed over" + (f", such as {others[0]}" if others else "")

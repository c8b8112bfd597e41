"""A folder of pictures, each with its captions in a text file beside it.

pictures/
├── a/1.jpg
└── a/1.txt     one caption a line
"""

import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from isthmus.data.entries import read_captions
from isthmus.data.folder import check_folder
from isthmus.errors import DataError
from isthmus.records import Example

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""How names of pictures end, in either case."""

_log = logging.getLogger(__name__)


class SidecarFolder:
    """The pictures of a folder and of all below it, in the order of their paths; a `Source`.

    `a/1.jpg` has its captions in `a/1.txt`, one a line, in UTF-8; its path within the folder is its `image_id`.
    Files of other kinds are passed over, and counted in a line of the log; so is what begins with a dot. No picture
    is opened.

    Raises DataError naming a picture without text, a text without picture, or one without a caption.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        check_folder(self.folder, "their texts")
        names, others = self._names()
        pictures = [name for name in names if name.suffix.lower() in SUFFIXES]
        texts = {name for name in names if name.suffix.lower() == ".txt"}
        if not pictures:
            raise DataError(f"{self.folder}: there is no picture in it; the names of pictures end in {_endings()}.")
        _refuse_unpaired(self.folder, pictures, texts)
        _log.info("%s: %d pictures with texts; %s", self.folder, len(pictures), _passed_over(others))
        self._examples = tuple(self._example(name) for name in pictures)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]

    def _names(self) -> tuple[list[Path], list[Path]]:
        """Pictures and texts, and all other files, by their paths within the folder."""
        known: list[Path] = []
        others: list[Path] = []
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder)
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                (known if name.suffix.lower() in (*SUFFIXES, ".txt") else others).append(name)
        return known, others

    def _example(self, name: Path) -> Example:
        path = _text_of(self.folder / name)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: the text is not UTF-8; save it as UTF-8.") from error
        except OSError as error:
            raise DataError(f"{path}: the text cannot be read ({error.strerror or error}).") from error
        lines = [line for line in text.split("\n") if line.strip()]
        if not lines:
            raise DataError(f"{path}: there is no caption in it; write one a line.")
        return Example(self.folder / name, name.as_posix(), read_captions(lines, str(path)))


def _text_of(picture: Path) -> Path:
    """The text file beside a picture, whichever case its ending has."""
    lower, upper = picture.with_suffix(".txt"), picture.with_suffix(".TXT")
    return upper if upper.is_file() and not lower.is_file() else lower


def _refuse_unpaired(folder: Path, pictures: Iterable[Path], texts: Iterable[Path]) -> None:
    by_stem: dict[Path, list[Path]] = defaultdict(list)
    for picture in pictures:
        by_stem[picture.with_suffix("")].append(picture)
    with_text = {text.with_suffix("") for text in texts}
    for stem, sharing in by_stem.items():
        if len(sharing) > 1:
            raise DataError(f"{folder / sharing[0]}: {sharing[1].name} has the same text file; rename one of them.")
        if stem not in with_text:
            raise DataError(f"{folder / sharing[0]}: there is no {stem.name}.txt beside it; write its captions there.")
    for stem in sorted(with_text - set(by_stem)):
        raise DataError(f"{folder / stem}.txt: there is no picture of that name beside it; add it or remove the text.")


def _passed_over(others: list[Path]) -> str:
    return f"{len(others)} other files passed over" + (f", such as {others[0]}" if others else "")


def _endings() -> str:
    return ", ".join(SUFFIXES)

"""Where captions go: one JSON-lines file, or a text file beside each picture.

Both look at their place before the first caption is made, tell what is done already, and keep what they have when
the disk is full or the process is killed: lines are written whole and flushed, text files appear whole or not at all.
An empty caption is written nowhere, so that a later run tries again: it could not be trained on.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

from isthmus.data.place import kind_at
from isthmus.errors import DataError, UserError
from isthmus.files import check_place, write_atomically
from isthmus.tasks.beside import captions_in, has_caption, texts_beside
from isthmus.tasks.folder import Picture, location
from isthmus.tasks.lines import is_half, make_line, read_line, write_all

_log = logging.getLogger(__name__)

Existing = Literal["skip", "overwrite", "append"]
"""What to do with a picture that has a caption: leave it, make it anew, or add one that is not there yet."""


class CaptionFile:
    """Captions as JSON lines, which are the metadata of an image folder: they can be trained on as they are.

    Looks at the file at once and changes nothing until the first caption is written; a last line that a killed run
    wrote by half is dropped then. New lines go to the end, so that a killed run loses nothing; a run that ends puts
    the file in order: with `append` a picture has one line again, with all its captions as a list, and with `overwrite`
    the new caption stands in the place of the old ones. Lines of other pictures and a line's other keys are kept.
    Raises UserError where the place cannot be written, or holds other things.
    """

    def __init__(self, path: Path, existing: Existing) -> None:
        self.path = path
        self._existing = existing
        self._file: BinaryIO | None = None
        self._length = 0
        self._texts: dict[str, list[str]] = {}
        self._renewed: set[str] = set()
        self._merge = existing != "skip"  # or an empty caption is there, whose line gets the one that comes
        self._empty: list[str] = []
        if kind_at(path) is not None:
            self._read()
        check_place(path)

    def owns(self, path: Path) -> bool:
        """True for the file itself."""
        return location(path) == location(self.path)

    def done(self, picture: Picture) -> bool:
        """True where the file has a caption of this picture and it is to be left."""
        return self._existing == "skip" and bool(self._texts.get(picture.name))

    def write(self, rows: Sequence[tuple[Picture, str]]) -> None:
        """Add lines; raises UserError where the disk is full, and leaves the lines before whole."""
        self._empty += [picture.name for picture, text in rows if not text.strip()]
        said = [(picture.name, text) for picture, text in rows if text.strip()]
        new = [(name, text) for name, text in said if text not in self._kept(name)]
        if not new:
            return
        content = b"".join(make_line({"file_name": name, "text": text}) for name, text in new)
        try:
            file = self._open()
            write_all(file, content)
        except OSError as problem:
            self._cut()
            raise _full(self.path, problem) from problem
        self._length += len(content)
        for name, text in new:
            self._texts[name] = [*self._kept(name), text]
            self._renewed.add(name)

    def __enter__(self) -> "CaptionFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Flush the file to the disk and close it; where lines were added to or replaced, one line a picture.

        A run that was broken off replaces what it has made anew, since a run that skips would leave the old beside it.
        """
        _tell_empty(self._empty)
        if self._file is None:
            return
        try:
            with self._file as file:
                os.fsync(file.fileno())
            if self._merge and (kind is None or self._existing == "overwrite"):
                write_atomically(self.path, self._write_merged)
        except OSError as problem:
            raise _full(self.path, problem) from problem

    def _kept(self, name: str) -> list[str]:
        return self._texts.get(name, []) if self._existing == "append" else []

    def _read(self) -> None:
        """Take in what is written; what follows the last line's end is left out where it is the half of a line."""
        if not self.path.is_file():
            raise DataError(
                f"{self.path} is no file that captions can be written to; name a file such as captions.jsonl"
            )
        try:
            with self.path.open("rb") as file:
                for number, raw in enumerate(file, start=1):
                    if not raw.endswith(b"\n") and is_half(raw):
                        return
                    self._take(raw, f"{self.path}, line {number}")
                    self._length += len(raw)
        except OSError as problem:
            raise DataError(f"{self.path} cannot be read ({problem.strerror}); choose another output") from problem

    def _take(self, raw: bytes, where: str) -> None:
        if not raw.strip():
            return
        entry = read_line(raw)
        if entry is None:
            raise DataError(
                f"{where}: this is no caption of a picture, so the file is left as it is; choose another output"
            )
        name, text = entry["file_name"], entry["text"]
        said = [one for one in ([text] if isinstance(text, str) else text) if one.strip()]
        self._texts.setdefault(name, []).extend(said)
        self._merge = self._merge or (self._existing == "skip" and not said)

    def _open(self) -> BinaryIO:
        """Open the file at the first caption, cut to whole lines."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("r+b" if self.path.exists() else "wb", buffering=0)
            self._file.truncate(self._length)
            self._file.seek(self._length)
            if self._length:
                self._end_last_line(self._file)
        return self._file

    def _end_last_line(self, file: BinaryIO) -> None:
        file.seek(self._length - 1)
        if file.read(1) != b"\n":
            file.write(b"\n")
            self._length += 1

    def _cut(self) -> None:
        """Take a line that was written by half away again; a later run would do it too."""
        if self._file is not None:
            with suppress(OSError):
                self._file.truncate(self._length)

    def _write_merged(self, scratch: Path) -> None:
        """Copy the file with one line a picture: the first, with all captions to keep and its own other keys."""
        with self.path.open("rb") as file, scratch.open("wb") as out:
            left = dict(self._texts)
            for raw in file:
                entry = read_line(raw)
                if entry and self._existing == "overwrite" and entry["file_name"] not in self._renewed:
                    out.write(raw)
                    continue
                texts = left.pop(entry["file_name"], None) if entry else None
                if entry and texts == []:
                    out.write(raw)
                elif entry and texts is not None:
                    out.write(make_line({**entry, "text": texts[0] if len(texts) == 1 else texts}))


class SideCars:
    """Captions as text files: beside a/1.jpg stands a/1.txt, or the a/1.TXT that is there; a caption is a line.

    Looks at every folder at once. Raises UserError where one cannot be written, where two pictures would share a text
    file, and where a picture has two.
    """

    def __init__(self, pictures: Iterable[Picture], existing: Existing) -> None:
        self._existing = existing
        self._texts = texts_beside(pictures)
        self._own = frozenset(location(path) for path in self._texts.values())
        self._empty: list[str] = []
        for folder in sorted({path.parent for path in self._texts.values()}):
            check_place(folder / "captions")

    def owns(self, path: Path) -> bool:
        """True for a text file beside one of the pictures."""
        return location(path) in self._own

    def done(self, picture: Picture) -> bool:
        """True where the text file holds a caption and is to be left."""
        return self._existing == "skip" and has_caption(self._beside(picture))

    def write(self, rows: Sequence[tuple[Picture, str]]) -> None:
        """Write or extend text files, each whole or not at all; raises UserError where the disk is full."""
        for picture, text in rows:
            if not text.strip():
                self._empty.append(picture.name)
                continue
            path, caption = self._beside(picture), " ".join(text.splitlines())
            try:
                lines = captions_in(path) if self._existing == "append" and path.exists() else []
                if caption not in lines:
                    content = "".join(f"{line}\n" for line in (*lines, caption))
                    write_atomically(path, partial(Path.write_text, data=content, encoding="utf-8"))
            except OSError as problem:
                raise _full(path, problem) from problem

    def __enter__(self) -> "SideCars":
        return self

    def __exit__(self, *_: object) -> None:
        """Tell of empty captions; every file is on the disk already."""
        _tell_empty(self._empty)

    def _beside(self, picture: Picture) -> Path:
        return self._texts[location(picture.path)]


def _tell_empty(names: Sequence[str]) -> None:
    """A line of the log about captions that were not written: a text without words could not be trained on."""
    if names:
        _log.warning(
            "%d captions came out empty and were not written, such as that of %s; the next run tries them again",
            len(names),
            names[0],
        )


def _full(path: Path, problem: OSError) -> UserError:
    return UserError(
        f"{path} cannot be written ({problem.strerror}); what was written before is whole: free space and run the "
        "same command again"
    )

"""Who is seen in training and who is not, fixed once in `split.json`.

Two honest tests: drawings by an artist whom training never saw (of things it did see), and things that
training never saw by any artist. A third artist is for development: every choice is made on it in runs that
do not train on it; then the choices are fixed and it joins the training of reported runs.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from isthmus.files import write_atomically
from isthmus.quickstart.names import caption

Table = Mapping[str, Sequence[str]]
"""The icons that each artist draws, by the artist's name."""


@dataclass(frozen=True)
class Row:
    """One picture of the quickstart: who drew it, and what."""

    artist: str
    icon: str

    @property
    def file_name(self) -> str:
        """The picture's place under `pictures/`."""
        return f"{self.artist}/{self.icon}.png"

    @property
    def image_id(self) -> str:
        """Every drawing is an image of its own; that two show the same thing follows from equal captions."""
        return f"{self.artist}/{self.icon}"

    @property
    def text(self) -> str:
        """The caption."""
        return caption(self.icon)


@dataclass(frozen=True)
class Split:
    """The content of `split.json`."""

    naming_artist: str
    unseen_artist: str
    development_artist: str
    unseen_names: tuple[str, ...]


@cache
def load_split() -> Split:
    """Read the split that ships with the package."""
    text = resources.files("isthmus.quickstart").joinpath("split.json").read_text(encoding="utf-8")
    content = json.loads(text)
    return Split(
        naming_artist=content["naming_artist"],
        unseen_artist=content["unseen_artist"],
        development_artist=content["development_artist"],
        unseen_names=tuple(content["unseen_names"]),
    )


def training_rows(table: Table, *, reported: bool) -> list[Row]:
    """Rows to train on: seen names by seen artists; the development artist only in reported runs."""
    split = load_split()
    left_out = {split.unseen_artist} | (set() if reported else {split.development_artist})
    return [row for artist in table if artist not in left_out for row in _seen(table, artist)]


def unseen_artist_rows(table: Table) -> list[Row]:
    """Rows of the artist whom no training sees, of names that training sees."""
    return _seen(table, load_split().unseen_artist)


def unseen_name_rows(table: Table) -> list[Row]:
    """Rows of the names that no training sees, as the naming artist draws them."""
    split = load_split()
    drawn = set(table[split.naming_artist])
    return [Row(split.naming_artist, name) for name in split.unseen_names if name in drawn]


def development_rows(table: Table) -> list[Row]:
    """Rows of the development artist, of names that training sees."""
    return _seen(table, load_split().development_artist)


def write_metadata(table: Table, folder: Path) -> dict[str, Path]:
    """Write the split's metadata files, in imagefolder form, into the pictures' folder; return them by name."""
    parts = {
        "train": training_rows(table, reported=True),
        "train-dev": training_rows(table, reported=False),
        "unseen-artist": unseen_artist_rows(table),
        "unseen-names": unseen_name_rows(table),
        "development": development_rows(table),
    }
    return {name: _write(rows, folder / f"{name}.jsonl") for name, rows in parts.items()}


def _seen(table: Table, artist: str) -> list[Row]:
    unseen = set(load_split().unseen_names)
    return [Row(artist, icon) for icon in table[artist] if icon not in unseen]


def _write(rows: Iterable[Row], path: Path) -> Path:
    lines = [json.dumps({"file_name": row.file_name, "text": row.text, "image_id": row.image_id}) for row in rows]
    content = "".join(line + "\n" for line in lines)
    write_atomically(path, lambda scratch: scratch.write_text(content, encoding="utf-8"))
    return path

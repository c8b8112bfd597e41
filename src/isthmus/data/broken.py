"""What is done with pictures that cannot be read: end the run, pass them over, or move them aside as well."""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Literal

from isthmus.errors import DataError
from isthmus.records import PictureBytes

Policy = Literal["error", "skip", "quarantine"]

FILE, FOLDER = "bad_images.jsonl", "quarantine"
_ENOUGH = 200
"""Pictures to meet before their rate is judged."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bad:
    """A picture that cannot be read: its name, why, and its file where it is one."""

    name: str
    reason: str
    path: Path | None

    @staticmethod
    def of(picture: Path | PictureBytes, error: DataError, *, name: str | None = None) -> "Bad":
        """Take the reason from the sentence of `isthmus.data.image`; without a `name`, a picture goes by its place."""
        reason = str(error).removeprefix(f"{picture}: ")
        return Bad(name or str(picture), reason, picture if isinstance(picture, Path) else None)


class BrokenPictures:
    """Counts what was met, and writes each bad picture once, with the reason, to bad_images.jsonl in `output`.

    With `quarantine`, its file is moved into quarantine/ beside it, under its path within the one of `folders` that
    holds it; nothing is ever deleted or overwritten. Above `rate`, the run ends.
    """

    def __init__(self, policy: Policy, *, rate: float, output: Path, folders: Sequence[Path] = ()) -> None:
        self.policy = policy
        self.rate = rate
        self.file = output / FILE
        self.bad: dict[str, Bad] = {}
        """Who could not be read so far, by name."""
        self._folders = folders
        self._met = self._bad = 0

    @property
    def tolerated(self) -> bool:
        """False where the first bad picture ends the run."""
        return self.policy != "error"

    def met(self, pictures: int, bad: Sequence[Bad] = ()) -> None:
        """Count pictures met, the bad ones among them, and report these.

        Raises DataError when too many are bad, once there were enough to tell.
        """
        self._met += pictures
        self._bad += len(bad)
        for one in bad:
            self.bad[one.name] = one
            self._report(one)
        if self._met >= _ENOUGH:
            self.judge()

    def judge(self) -> None:
        """Raise DataError when more pictures are bad than `rate` allows, however few were met."""
        if self._bad > self.rate * self._met:
            raise DataError(
                f"{self._bad} of {self._met} pictures cannot be read, more than the share of {self.rate:g} that "
                f"data.broken_rate allows; {self.file} names them: mend them, or allow more."
            )

    def _report(self, bad: Bad) -> None:
        try:
            moved = self._move(bad.path) if self.policy == "quarantine" and bad.path else None
            before = self.file.read_text(encoding="utf-8", errors="replace") if self.file.is_file() else ""
            if moved is None and bad.name in _names(before):
                return
            self.file.parent.mkdir(parents=True, exist_ok=True)
            line = {"path": bad.name, "reason": bad.reason, "moved_to": str(moved) if moved else None}
            with self.file.open("a", encoding="utf-8") as file:
                file.write(("\n" if before and before[-1] != "\n" else "") + json.dumps(line) + "\n")
        except OSError as error:
            reason = error.strerror or error
            raise DataError(
                f"{self.file}: {bad.name} cannot be reported or moved ({reason}); free the place."
            ) from error
        _log.info("%s: %s", bad.name, bad.reason)

    def _move(self, path: Path) -> Path | None:
        """Move a file aside; None where there is no file to move."""
        if not path.is_file():
            return None
        inside = next((path.relative_to(folder) for folder in self._folders if path.is_relative_to(folder)), path.name)
        wanted = self.file.parent / FOLDER / inside
        wanted.parent.mkdir(parents=True, exist_ok=True)
        names = chain([wanted], (wanted.with_name(f"{wanted.name}.{number}") for number in count(1)))
        place = next(name for name in names if not name.exists())
        try:
            shutil.move(path, place)
        except FileNotFoundError:  # another process was faster
            return None
        return place


def _names(lines: str) -> set[str]:
    """Whose pictures were reported, read anew since other processes write too; a line cut short counts for none."""
    names = set()
    for line in lines.splitlines():
        try:
            names.add(json.loads(line)["path"])
        except (ValueError, KeyError, TypeError):
            continue
    return names

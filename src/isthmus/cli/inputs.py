"""What the commands that use a trained bridge share: loading it, counting pictures, telling what happened."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer

from isthmus.build.folders import FoundBridge, Moved, Need, find_bridges
from isthmus.build.pretrained import Wishes, load_pretrained
from isthmus.cli.ending import SOME_BROKEN, WRONG_INPUT
from isthmus.cli.show import quiet_libraries
from isthmus.data.broken import Bad
from isthmus.errors import ConfigError, UserError
from isthmus.predictor import Predictor


@dataclass(frozen=True)
class Loading:
    """Which bridges to load, where, and the new addresses of towers that moved."""

    models: Sequence[Path] | None
    device: str = "auto"
    dtype: str = "auto"
    encoder: str | None = None
    llm: str | None = None

    def check(self) -> None:
        """Raise ConfigError where no model is named; cheap, so that it comes before all else."""
        if not self.models:
            raise ConfigError(
                "no model is named; give --model FOLDER, the output of `isthmus train` (or runs/quickstart, which "
                "`isthmus quickstart` makes)"
            )

    @property
    def moved(self) -> Moved:
        """The new addresses, told as the options that they are."""
        return Moved(self.encoder, self.llm, form="--{} {}")

    def predictor(self, need: Need) -> Predictor:
        """Load the bridge that is needed and its towers, of folders that may hold more."""
        self.check()
        assert self.models
        quiet_libraries()
        wishes = Wishes(self.device, self.dtype, towers=self.moved)
        return Predictor(load_pretrained(self.models, wishes, only=need))

    def found(self) -> dict[int, FoundBridge]:
        """The bridges in the folders, by stage."""
        self.check()
        assert self.models
        return find_bridges(self.models)


@contextmanager
def enough_memory(*remedies: str) -> Iterator[None]:
    """Make one sentence of a device that has too little memory; `remedies` are what this command has against it."""
    try:
        yield
    except torch.OutOfMemoryError as problem:
        raise UserError(f"the device has too little memory; give {', or '.join(remedies)}") from problem


def print_json(content: dict[str, Any]) -> None:
    """Write one JSON object as one line to stdout."""
    typer.echo(json.dumps(content, ensure_ascii=False))


def say(line: str) -> None:
    """Write a line for people to stderr."""
    typer.echo(line, err=True)


def tell_broken(broken: Sequence[Bad], *, all_broken: bool) -> int:
    """Name each picture that could not be read, on stderr; the exit code that goes with them."""
    for one in broken:
        say(f"isthmus: {one.name}: {one.reason}")
    if all_broken and len(broken) > 1:
        say("isthmus: no picture could be read, so nothing was done; mend them, or give others")
    if all_broken:
        return WRONG_INPUT
    return SOME_BROKEN if broken else 0


def broken_json(broken: Sequence[Bad]) -> list[dict[str, str]]:
    """The same for JSON."""
    return [{"name": one.name, "reason": one.reason} for one in broken]

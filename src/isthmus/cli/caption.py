"""`isthmus caption`: pictures → captions, on stdout, in one file, or beside each picture."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import typer
from PIL import Image

from isthmus.build.folders import check_need, check_towers, check_wanted_llm, need_of_caption
from isthmus.cli.inputs import Loading, broken_json, enough_memory, print_json, say, tell_broken
from isthmus.data.text import normalise
from isthmus.errors import ConfigError
from isthmus.images import Prepared
from isthmus.language.llm import Decoding
from isthmus.predictor import Predictor
from isthmus.tasks.folder import (
    Found,
    Outcome,
    Picture,
    PictureCaptioner,
    Prepare,
    caption_pictures,
    find_pictures,
)
from isthmus.tasks.output import CaptionFile, Existing, SideCars
from isthmus.train.tracking import StoreProgress


@dataclass(frozen=True)
class Asked:
    """How captions are made: the fields of `Predictor.caption`, and what stands before and after each."""

    prompt: str | None
    by: Literal["llm", "qformer"] | None
    batch_size: int
    decoding: Decoding
    prefix: str = ""
    suffix: str = ""

    def check(self) -> None:
        """Raise ConfigError for an empty prompt, which is more often a mistake of the shell than a wish."""
        if self.prompt is not None and not self.prompt.strip():
            raise ConfigError("--prompt is empty; write one, or leave it out for the prompt of the training")


@dataclass(frozen=True)
class Target:
    """Where captions go, and what is told of it."""

    output: Path | None
    sidecar: bool
    existing: Existing
    dry_run: bool
    as_json: bool

    def open(self, found: Found) -> "CaptionFile | SideCars | Printed":
        """Look at the place; raises UserError where it cannot be used."""
        if self.output is not None and self.sidecar:
            raise ConfigError("--output and --sidecar are two places; give one of them")
        if self.sidecar:
            return SideCars(found.pictures, self.existing)
        if self.output is not None:
            return CaptionFile(self.output, self.existing)
        if self.existing != "skip":
            raise ConfigError(f"--existing {self.existing} needs a place; give --output FILE or --sidecar")
        return Printed(self.as_json)


class Printed:
    """Captions on stdout: name, tab, caption, or a JSON object a line."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def __enter__(self) -> "Printed":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to do."""

    def owns(self, path: Path) -> bool:
        """False: no file is written."""
        return False

    def done(self, picture: Picture) -> bool:
        """False: nothing is kept."""
        return False

    def write(self, rows: Sequence[tuple[Picture, str]]) -> None:
        """Print a batch; in plain lines a caption's white space is made one space."""
        for picture, text in rows:
            if self._as_json:
                print_json({"file_name": picture.name, "text": text})
            else:
                typer.echo(f"{picture.name}\t{normalise(text)}")


def run_caption(images: Sequence[Path], loading: Loading, asked: Asked, target: Target) -> int:
    """Caption pictures; the exit code says whether some could not be read."""
    asked.check()
    if not target.dry_run:
        loading.check()
    found = find_pictures(images)
    place = target.open(found)
    others = sum(not place.owns(path) for path in found.others)
    if target.dry_run:
        if loading.models:
            _look_at_model(loading, asked)
        _plan(found, place, others, as_json=target.as_json)
        return 0
    titled: AbstractContextManager[Any] = nullcontext() if isinstance(place, Printed) else StoreProgress("captions")
    with place, titled as progress, enough_memory("a smaller --batch-size", "--device cpu"):
        prepare, captioner = _calls(loading, asked)
        outcome = caption_pictures(
            found.pictures,
            place,
            captioner,
            prepare=prepare,
            batch_size=asked.batch_size,
            progress=progress or (lambda done, total: None),
        )
    return _report(outcome, target, others)


def _look_at_model(loading: Loading, asked: Asked) -> None:
    """Raise what would keep the model from captioning, so far as it is known before anything is loaded."""
    found = loading.found()
    need = need_of_caption(asked.by, asked.prompt, found)
    check_wanted_llm(found, {"llm": loading.llm}, loading.moved.form)
    check_need(need, found)
    check_towers(found[need.stage], loading.moved)


def _calls(loading: Loading, asked: Asked) -> tuple[Prepare[Prepared], PictureCaptioner[Prepared]]:
    """The calls that prepare and caption; the model is loaded for the first picture that is there, not for nothing."""

    @cache
    def load() -> Predictor:
        return loading.predictor(need_of_caption(asked.by, asked.prompt, loading.found()))

    decoding: dict[str, Any] = asdict(asked.decoding)

    def prepare(picture: Image.Image) -> Prepared:
        return load().prepare(picture)

    def captions(ready: Iterator[Prepared]) -> list[str]:
        said = load().caption(ready, asked.prompt, by=asked.by, batch_size=asked.batch_size, **decoding)
        return [f"{asked.prefix}{caption}{asked.suffix}" for caption in said]

    return prepare, captions


def _plan(found: Found, place: CaptionFile | SideCars | Printed, others: int, *, as_json: bool) -> None:
    """Print what a run would caption."""
    todo = [picture.name for picture in found.pictures if not place.done(picture)]
    done = len(found.pictures) - len(todo)
    if as_json:
        print_json({"to_caption": todo, "done_before": done, "ignored": others})
        return
    for name in todo:
        typer.echo(name)
    say(f"to caption: {len(todo)}; done before: {done}; other files ignored: {others}; nothing was written")


def _report(outcome: Outcome, target: Target, others: int) -> int:
    """Tell what was done, on stderr or as JSON."""
    printed = target.output is None and not target.sidecar
    if target.as_json:
        if printed:
            for one in outcome.broken:
                print_json({"file_name": one.name, "error": one.reason})
        else:
            counts = {"written": outcome.written, "empty": outcome.empty, "done_before": outcome.done_before}
            place = "beside the pictures" if target.output is None else str(target.output)
            print_json({"output": place, **counts, "ignored": others, "broken": broken_json(outcome.broken)})
    code = tell_broken(outcome.broken, all_broken=outcome.all_broken)
    if printed:
        return code
    place = "text files beside the pictures" if target.output is None else str(target.output)
    empty = f" (empty: {outcome.empty})" if outcome.empty else ""
    say(
        f"captions written to {place}: {outcome.written}{empty}; done before: {outcome.done_before}; "
        f"broken pictures: {len(outcome.broken)}; other files ignored: {others}"
    )
    return code

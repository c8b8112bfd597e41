"""Caption every picture of a folder: read ahead, in batches, each written as it comes.

The call that captions is passed in, and so is what makes an opened picture ready for it: while one batch is captioned,
threads read the next and make it ready, and no more than these two stand in memory. The place that captions go to
(`isthmus.tasks.output`) is passed in too, and knows what an earlier run has done. A picture that cannot be read is
reported and left out; it never ends the run.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from PIL import Image

from isthmus.data.broken import Bad
from isthmus.data.image import SUFFIXES, open_image
from isthmus.data.place import files_below, kind_at
from isthmus.errors import DataError

Ready = TypeVar("Ready")
Prepare = Callable[[Image.Image], Ready]
"""An opened picture → what a batch is made of; called in threads, but for the first time."""

PictureCaptioner = Callable[[Iterator[Ready]], list[str]]
"""Prepared pictures, to be gone through once → one caption each."""

_THREADS = 4


@dataclass(frozen=True)
class Picture:
    """A picture's file, and the name it has in what is written: as given, or its path within the one folder."""

    path: Path
    name: str


@dataclass(frozen=True)
class Found:
    """The pictures of some files and folders in a fixed order, and the other files that lay among them."""

    pictures: tuple[Picture, ...]
    others: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a run did: captions with words, those that came out empty, pictures done before, and the unreadable."""

    written: int
    empty: int
    done_before: int
    broken: tuple[Bad, ...]

    @property
    def all_broken(self) -> bool:
        """True where there were pictures, and not one of them could be read."""
        return bool(self.broken) and not (self.written or self.empty or self.done_before)


@runtime_checkable
class CaptionPlace(Protocol):
    """Where captions go."""

    def done(self, picture: Picture) -> bool:
        """True where this picture needs no caption any more."""

    def write(self, rows: Sequence[tuple[Picture, str]]) -> None:
        """Keep the captions of some pictures; raises UserError where that fails."""


def find_pictures(given: Sequence[Path]) -> Found:
    """Find the pictures of files and folders, folders with all below them, in the order given and by name.

    In a folder a picture is known by its suffix; hidden files and folders are passed over, links to folders are not
    followed. A file that is named itself is always taken. A picture that is found twice counts once. Raises DataError
    for a path that does not exist and where there is no picture at all.
    """
    alone = len(given) == 1
    pictures: dict[Path, Picture] = {}
    others: list[Path] = []
    for start in given:
        kind = kind_at(start)
        if kind is None:
            raise DataError(f"{start}: there is no such file or folder; give pictures or folders of pictures")
        if kind != "folder":
            pictures.setdefault(location(start), Picture(start, str(start)))
            continue
        for path in files_below(start):
            if path.suffix.lower() in SUFFIXES:
                name = path.relative_to(start).as_posix() if alone else str(path)
                pictures.setdefault(location(path), Picture(path, name))
            else:
                others.append(path)
    if not pictures:
        raise DataError(
            f"{', '.join(map(str, given))}: there is no picture in it ({len(others)} other files); "
            f"pictures are known by {', '.join(SUFFIXES)}"
        )
    return Found(tuple(pictures.values()), tuple(others))


def location(path: Path) -> Path:
    """Where a file lies, however it was named; a link to a file stays a file of its own."""
    return path.parent.resolve() / path.name


def caption_pictures(
    pictures: Sequence[Picture],
    place: CaptionPlace,
    captioner: PictureCaptioner[Ready],
    *,
    prepare: Prepare[Ready],
    batch_size: int,
    progress: Callable[[int, int], object],
) -> Outcome:
    """Caption what is not done yet; `progress` is told (pictures done, pictures in all) after each batch.

    Raises whatever `place` raises.
    """
    todo = [picture for picture in pictures if not place.done(picture)]
    before = len(pictures) - len(todo)
    broken: list[Bad] = []
    written = empty = 0
    progress(before, len(pictures))
    for names, opened in in_batches(todo, prepare, batch_size=batch_size, broken=broken):
        captions = captioner(opened)
        place.write(list(zip(names, captions, strict=True)))
        said = sum(bool(caption.strip()) for caption in captions)
        written, empty = written + said, empty + len(captions) - said
        progress(before + written + empty + len(broken), len(pictures))
    return Outcome(written, empty, before, tuple(broken))


def in_batches(
    pictures: Iterable[Picture], prepare: Prepare[Ready], *, batch_size: int, broken: list[Bad]
) -> Iterator[tuple[list[Picture], Iterator[Ready]]]:
    """Open and prepare pictures in full batches, each while the one before is at work.

    Who cannot be read is put into `broken` and another takes its place. The list of a batch is filled while its
    pictures are gone through; going through all of them is the caller's part.
    """
    good = _good(pictures, prepare, broken, ahead=batch_size)
    for first in good:
        batch: list[Picture] = []
        yield batch, _noted(chain([first], islice(good, batch_size - 1)), batch)


def _noted(good: Iterable[tuple[Picture, Ready]], batch: list[Picture]) -> Iterator[Ready]:
    for picture, ready in good:
        batch.append(picture)
        yield ready


def _good(
    pictures: Iterable[Picture], prepare: Prepare[Ready], broken: list[Bad], *, ahead: int
) -> Iterator[tuple[Picture, Ready]]:
    """Those that can be read, in order; the first in this thread, since `prepare` may load a model for it."""

    def read(path: Path) -> Ready:
        return prepare(open_image(path))

    rest, begun = iter(pictures), False
    while not begun and (picture := next(rest, None)) is not None:
        for ready in _or_broken(picture, partial(read, picture.path), broken):
            begun = True
            yield picture, ready
    for picture, future in _ahead(rest, read, ahead):
        for ready in _or_broken(picture, future.result, broken):
            yield picture, ready


def _or_broken(picture: Picture, result: Callable[[], Ready], broken: list[Bad]) -> list[Ready]:
    """What was read, or nothing where it cannot be."""
    try:
        return [result()]
    except DataError as problem:
        broken.append(Bad.of(picture.path, problem, name=picture.name))
        return []


def _ahead(
    pictures: Iterable[Picture], read: Callable[[Path], Ready], ahead: int
) -> Iterator[tuple[Picture, Future[Ready]]]:
    """Read in threads, `ahead` pictures before they are needed, in order."""
    waiting: deque[tuple[Picture, Future[Ready]]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        for picture in pictures:
            waiting.append((picture, pool.submit(read, picture.path)))
            if len(waiting) > ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()

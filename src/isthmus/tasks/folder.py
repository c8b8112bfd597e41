"""Caption every picture of a folder: read ahead, in batches, each written as it comes.

The call that captions is passed in; it goes through the pictures once, so that only a few stand in memory. So is the
place that captions go to (`isthmus.tasks.output`), which knows what an earlier run has done. A picture that cannot be
read is reported and left out; it never ends the run.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from isthmus.data.broken import Bad
from isthmus.data.image import SUFFIXES, open_image
from isthmus.data.place import files_below, kind_at
from isthmus.errors import DataError

PictureCaptioner = Callable[[Iterator[Image.Image]], list[str]]
"""Pictures, to be gone through once → one caption each."""

_THREADS = 4
_AHEAD = 8
"""Pictures that are read before they are needed, at most."""


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
    captioner: PictureCaptioner,
    *,
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
    for names, opened in in_batches(todo, batch_size=batch_size, broken=broken):
        captions = captioner(opened)
        place.write(list(zip(names, captions, strict=True)))
        said = sum(bool(caption.strip()) for caption in captions)
        written, empty = written + said, empty + len(captions) - said
        progress(before + written + empty + len(broken), len(pictures))
    return Outcome(written, empty, before, tuple(broken))


def in_batches(
    pictures: Iterable[Picture], *, batch_size: int, broken: list[Bad]
) -> Iterator[tuple[list[Picture], Iterator[Image.Image]]]:
    """Open pictures in full batches; who cannot be read is put into `broken` and another takes its place.

    The list of a batch is filled while its pictures are gone through; going through all of them is the caller's part.
    """
    good = _good(pictures, broken)
    for first in good:
        batch: list[Picture] = []
        yield batch, _noted(chain([first], islice(good, batch_size - 1)), batch)


def _noted(good: Iterable[tuple[Picture, Image.Image]], batch: list[Picture]) -> Iterator[Image.Image]:
    for picture, image in good:
        batch.append(picture)
        yield image


def _good(pictures: Iterable[Picture], broken: list[Bad]) -> Iterator[tuple[Picture, Image.Image]]:
    for picture, future in _ahead(pictures):
        try:
            yield picture, future.result()
        except DataError as problem:
            broken.append(Bad.of(picture.path, problem, name=picture.name))


def _ahead(pictures: Iterable[Picture]) -> Iterator[tuple[Picture, Future[Image.Image]]]:
    """Read in threads, a few pictures ahead, in order."""
    waiting: deque[tuple[Picture, Future[Image.Image]]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        for picture in pictures:
            waiting.append((picture, pool.submit(open_image, picture.path)))
            if len(waiting) > _AHEAD:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()

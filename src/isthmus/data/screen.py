"""Which pictures of a source can be read: asked before a run where each must count, as in evaluation."""

from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path

from torch.utils.data import Dataset

from isthmus.data.broken import Bad
from isthmus.data.image import open_image
from isthmus.data.workers import Workers, begin, prepared
from isthmus.errors import DataError
from isthmus.records import PictureBytes


def why_unreadable(picture: Path | PictureBytes) -> Bad | None:
    """Try to read a picture; what is wrong with it, or None."""
    try:
        open_image(picture)
    except DataError as error:
        return Bad.of(picture, error)
    return None


def verdicts(images: Sequence[Path | PictureBytes], workers: Workers) -> Iterator[Bad | None]:
    """Try to read every picture in worker processes; what is wrong with each, in order, or None."""
    one_by_one = [[index] for index in range(len(images))]
    yield from prepared(
        _Verdicts(images), one_by_one, collate=itemgetter(0), workers=workers, name=lambda index: str(images[index])
    )


class _Verdicts(Dataset[Bad | None]):
    """What is wrong with each picture."""

    def __init__(self, images: Sequence[Path | PictureBytes]) -> None:
        self._images = images

    def __getitem__(self, index: int) -> Bad | None:
        begin(index)
        return why_unreadable(self._images[index])

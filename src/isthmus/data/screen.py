"""Which pictures of a source can be read: asked before a run where each must count, as in evaluation."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from isthmus.data.broken import Bad
from isthmus.data.image import open_image
from isthmus.data.loader import Workers
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
    yield from DataLoader(
        _Verdicts(images),
        batch_size=None,
        num_workers=workers.count,
        timeout=workers.timeout if workers.count else 0,
        generator=torch.Generator(),
    )


class _Verdicts(Dataset[Bad | None]):
    """What is wrong with each picture."""

    def __init__(self, images: Sequence[Path | PictureBytes]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Bad | None:
        return why_unreadable(self._images[index])

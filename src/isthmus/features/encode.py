"""Pictures → views in decoding workers → patches, shard by shard."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from isthmus.data.broken import BrokenPictures
from isthmus.data.image import open_image
from isthmus.data.loader import crop_draws
from isthmus.data.workers import Workers, begin, prepared
from isthmus.errors import DataError, StoreError
from isthmus.features.key import Sizes, Views
from isthmus.features.pace import Pace
from isthmus.records import PictureBytes
from isthmus.vision.encoder import Encoder, Preprocessing

Picture = tuple[str, Path | PictureBytes]
"""The sha256 of a picture's bytes, and a file that has them."""


@dataclass(frozen=True)
class Work:
    """How to extract, without effect on the key: views in one encoder call, bytes of a shard, decoding workers.

    `broken` says what is done with pictures that cannot be read; without it, the first ends the extraction.
    """

    batch: int = 32
    shard_bytes: int = 256 * 2**20
    workers: Workers = field(default_factory=Workers)
    broken: BrokenPictures | None = None


Report = Callable[[Sequence[str], Sequence[tuple[str, DataError]]], object]
"""Is told of pictures as they are met, by hash: those that were encoded, and what is wrong with the others."""


@dataclass(frozen=True)
class _Decoded:
    """Views of those of some consecutive pictures that can be read, by their indices, and what the others raised.

    The views are put together by the worker, so that they cross over to this process as one tensor.
    """

    good: list[int]
    views: Float[Tensor, "rows 3 S S"] | None
    bad: list[tuple[int, DataError]]

    def __len__(self) -> int:
        return len(self.good) + len(self.bad)


def encode(encoder: Encoder, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B P V"]:
    """Encode on the encoder's own device."""
    device = next((weight.device for weight in encoder.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        patches: Tensor = encoder(pixels.to(device, non_blocking=True))
    return patches


def encoded_shards(
    pictures: Sequence[Picture],
    encoder: Encoder,
    *,
    keep: tuple[Views, Sizes],
    work: Work,
    watch: tuple[Report, Pace],
) -> Iterator[tuple[tuple[str, ...], Float[Tensor, "rows K P V"]]]:
    """Yield (hashes, patches) for each shard; workers decode ahead across shards, two batches each.

    `watch` is told of pictures, and counts them and the encoder's seconds. What cannot be read is left out, if the
    report bears it. Raises StoreError for patches that are not finite in the store's dtype.
    """
    (views, sizes), (report, pace) = keep, watch
    rows = max(1, work.shard_bytes // sizes.row_bytes(views))
    shards = [range(first, min(first + rows, len(pictures))) for first in range(0, len(pictures), rows)]
    stream = _decoded(pictures, encoder.preprocessing, views, (shards, work))
    for shard in shards:
        patches = torch.empty(len(shard), views.count, sizes.patches, sizes.width, dtype=views.torch_dtype)
        good: list[Picture] = []
        met = 0
        while met < len(shard):
            decoded = next(stream)
            met += len(decoded)
            if decoded.views is not None:
                place = patches[len(good) : len(good) + len(decoded.good)].flatten(0, 1)  # a view of the shard
                _encode_into(place, decoded.views, encoder, (work.batch, pace))
                good.extend(pictures[index] for index in decoded.good)
                pace.pictures += len(decoded.good)
            encodable = [pictures[index][0] for index in decoded.good]
            report(encodable, [(pictures[index][0], error) for index, error in decoded.bad])
        _check_finite(patches[: len(good)], good)
        if good:
            yield tuple(image for image, _ in good), patches[: len(good)]


def _encode_into(
    place: Float[Tensor, "rows P V"], pixels: Float[Tensor, "rows 3 S S"], encoder: Encoder, how: tuple[int, Pace]
) -> None:
    """Encode views in batches, each straight to its rows in the store's dtype."""
    batch, pace = how
    for rows, part in zip(torch.split(place, batch), torch.split(pixels, batch), strict=True):
        with pace.encoding():
            rows.copy_(encode(encoder, part))


def _check_finite(patches: Float[Tensor, "rows K P V"], pictures: Sequence[Picture]) -> None:
    finite = patches.isfinite().flatten(1).all(1).tolist()
    for good, (_, picture) in zip(finite, pictures, strict=True):
        if not good:
            raise StoreError(
                f"{picture}: the patches are not finite in {patches.dtype}; choose bfloat16 or float32, "
                "or remove the picture."
            )


def _decoded(
    pictures: Sequence[Picture], preprocessing: Preprocessing, views: Views, plan: tuple[list[range], Work]
) -> Iterator[_Decoded]:
    """Views of consecutive pictures, in batches that end where a shard ends."""
    shards, work = plan
    size = max(1, work.batch // views.count)
    batches = [list(shard[first : first + size]) for shard in shards for first in range(0, len(shard), size)]
    yield from prepared(
        _PictureViews(pictures, preprocessing, views),
        batches,
        collate=_gather,
        workers=work.workers,
        name=lambda index: str(pictures[index][1]),
    )


class _PictureViews(Dataset[tuple[int, Tensor | DataError]]):
    """Each picture's views with its index; its DataError is a value, since torch would rewrite the message."""

    def __init__(self, pictures: Sequence[Picture], preprocessing: Preprocessing, views: Views) -> None:
        self._pictures = pictures
        self._preprocessing = preprocessing
        self._views = views

    def __getitem__(self, index: int) -> tuple[int, Float[Tensor, "K 3 S S"] | DataError]:
        begin(index)
        image, source = self._pictures[index]
        try:
            picture = open_image(source)
        except DataError as error:
            return index, error
        crops = [self._preprocessing.centre(picture)]
        for view in range(1, self._views.count):
            draws = crop_draws(self._views.seed, view, int(image[:16], 16))
            given = self._views
            crops.append(
                self._preprocessing.crop(picture, draws, scale=given.scale, flip=given.flip, colour=given.colour)
            )
        return index, torch.stack(crops)


def _gather(pictures: Sequence[tuple[int, Tensor | DataError]]) -> _Decoded:
    good = [(index, views) for index, views in pictures if isinstance(views, Tensor)]
    bad = [(index, problem) for index, problem in pictures if isinstance(problem, DataError)]
    return _Decoded([index for index, _ in good], torch.cat([views for _, views in good]) if good else None, bad)

"""Pictures → views in decoding workers → patches, shard by shard."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from isthmus.data.image import open_image
from isthmus.data.loader import Workers, crop_draws
from isthmus.errors import StoreError, UserError
from isthmus.features.key import Sizes, Views
from isthmus.vision.encoder import Encoder, Preprocessing

Picture = tuple[str, Path]
"""The sha256 of a picture's bytes, and a file that has them."""


@dataclass(frozen=True)
class Work:
    """How to extract, without effect on the key: views in one encoder call, bytes of a shard, decoding workers."""

    batch: int = 32
    shard_bytes: int = 256 * 2**20
    workers: Workers = field(default_factory=Workers)


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
    report: Callable[[int], object],
) -> Iterator[tuple[tuple[str, ...], Float[Tensor, "rows K P V"]]]:
    """Yield (hashes, patches) for each shard; workers decode ahead across shards.

    `report` is called with the number of pictures encoded so far. Raises the UserError of a bad picture, and
    StoreError for patches that are not finite in the store's dtype.
    """
    views, sizes = keep
    rows = max(1, work.shard_bytes // sizes.row_bytes(views))
    shards = [range(first, min(first + rows, len(pictures))) for first in range(0, len(pictures), rows)]
    stream = _decoded(pictures, encoder.preprocessing, views, (shards, work))
    for shard in shards:
        patches = torch.empty(len(shard), views.count, sizes.patches, sizes.width, dtype=views.torch_dtype)
        filled = 0
        while filled < len(shard):
            pixels = next(stream)
            parts = [encode(encoder, part) for part in torch.split(pixels.flatten(0, 1), work.batch)]
            last = filled + len(pixels)
            patches[filled:last] = torch.cat(parts).reshape(len(pixels), *patches.shape[1:])
            filled = last
            report(shard.start + filled)
        _check_finite(patches, [pictures[index] for index in shard])
        yield tuple(pictures[index][0] for index in shard), patches


def _check_finite(patches: Float[Tensor, "rows K P V"], pictures: Sequence[Picture]) -> None:
    finite = patches.isfinite().flatten(1).all(1).tolist()
    for good, (_, path) in zip(finite, pictures, strict=True):
        if not good:
            raise StoreError(
                f"{path}: the patches are not finite in {patches.dtype}; choose bfloat16 or float32, "
                "or remove the picture."
            )


def _decoded(
    pictures: Sequence[Picture], preprocessing: Preprocessing, views: Views, plan: tuple[list[range], Work]
) -> Iterator[Float[Tensor, "B K 3 S S"]]:
    """Views of consecutive pictures, in batches that end where a shard ends; no global generator is touched."""
    shards, work = plan
    size = max(1, work.batch // views.count)
    batches = [list(shard[first : first + size]) for shard in shards for first in range(0, len(shard), size)]
    loader = DataLoader(
        _PictureViews(pictures, preprocessing, views),
        batch_sampler=batches,
        collate_fn=_stack,
        num_workers=work.workers.count,
        timeout=work.workers.timeout if work.workers.count else 0,
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


class _PictureViews(Dataset[Tensor | UserError]):
    """Each picture's views; its UserError is a value, since torch would rewrite the message."""

    def __init__(self, pictures: Sequence[Picture], preprocessing: Preprocessing, views: Views) -> None:
        self._pictures = pictures
        self._preprocessing = preprocessing
        self._views = views

    def __getitem__(self, index: int) -> Float[Tensor, "K 3 S S"] | UserError:
        image, path = self._pictures[index]
        try:
            picture = open_image(path)
        except UserError as error:
            return error
        crops = [self._preprocessing.centre(picture)]
        for view in range(1, self._views.count):
            draws = crop_draws(self._views.seed, view, int(image[:16], 16))
            crop = self._preprocessing.crop(picture, draws, scale=self._views.scale, flip=self._views.flip)
            crops.append(crop)
        return torch.stack(crops)


def _stack(pictures: Sequence[Tensor | UserError]) -> Tensor | UserError:
    good: list[Tensor] = []
    for picture in pictures:
        if isinstance(picture, UserError):
            return picture
        good.append(picture)
    return torch.stack(good)

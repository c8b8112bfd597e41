"""Numbered pictures that are nowhere but in a feature store: random patches, written without an encoder."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.encoder import ColourEncoder
from benchmarks.inputs import FIXED_LENGTH
from isthmus.features.key import Manifest, Shard, Sizes, StoreKey, Views, store_key
from isthmus.features.store import MANIFEST, TENSOR
from isthmus.fingerprint import file_sha256
from isthmus.records import Example

_WORDS, _FIRST_WORD = 500, 200


@dataclass(frozen=True)
class NumberedPicture:
    """A picture of which only the bytes are known, by which a store finds it."""

    number: int

    def read_bytes(self) -> bytes:
        """The number, in words."""
        return f"picture {self.number}".encode()


@dataclass(frozen=True)
class NumberedPictures:
    """A source of so many, each with a caption of its own, in the words `wn` that stand for token n."""

    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        words = [_FIRST_WORD + index // _WORDS**place % _WORDS for place in range(FIXED_LENGTH - 2)]
        caption = " ".join(f"w{word}" for word in words)
        return Example(NumberedPicture(index), str(index), (caption,))


def key_of(sizes: Sizes, dtype: str) -> StoreKey:
    """The key of a store of such pictures."""
    return store_key(ColourEncoder(sizes.patches, sizes.width), Views(dtype=dtype))


def write_store(folder: Path, count: int, sizes: Sizes, dtype: str) -> None:
    """Draw the patches of so many pictures."""
    folder.mkdir()
    key, path = key_of(sizes, dtype), folder / "shard-00000.safetensors"
    patches = torch.empty(count, 1, sizes.patches, sizes.width, dtype=key.views.torch_dtype)
    for row in patches:  # one after the other: drawn in fp32
        row.copy_(torch.randn(row.shape))
    save_file({TENSOR: patches}, path)
    images = tuple(hashlib.sha256(NumberedPicture(number).read_bytes()).hexdigest() for number in range(count))
    shard = Shard(path.name, file_sha256(path), path.stat().st_size, images)
    (folder / MANIFEST).write_text(Manifest(key.fields(), sizes, (shard,)).to_json(), encoding="utf-8")

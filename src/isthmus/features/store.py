"""The feature store: a folder of patches, encoded once, that says what it was made from (DESIGN 5.11).

    store/
    ├── manifest.json                key, P and V, and each shard's file, size, sha256 and pictures; written last
    └── shard-00000.safetensors      one tensor `patches` of shape (rows, views, P, V)

Shards are read through the system's memory mapping, one view at a time. safetensors has no checksum, so a
flipped byte is found only by the manifest's sha256 (`verify=True`).
"""

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from isthmus.data.hashes import picture_hashes
from isthmus.errors import StoreError
from isthmus.features.key import Manifest, Sizes, StoreKey, refuse_mismatch
from isthmus.fingerprint import file_sha256, text_identity
from isthmus.randomness import uniform
from isthmus.records import Example, PictureBytes, Source

MANIFEST = "manifest.json"
TENSOR = "patches"
_OPEN_SHARDS = 256
_VIEW = text_identity("choice of a stored view")


class FeatureStore:
    """Patches of pictures, found by the sha256 of the pictures' bytes; made by `FeatureStore.open`.

    It may be pickled into workers: each process opens shards for itself.
    """

    def __init__(self, folder: Path, manifest: Manifest, key: StoreKey) -> None:
        self.folder = folder
        self.manifest = manifest
        self.key = key
        self._place = dict(manifest.locations())
        self._open: OrderedDict[int, Any] = OrderedDict()

    @staticmethod
    def open(folder: Path, expected: StoreKey, *, verify: bool = False) -> "FeatureStore":
        """Open a finished store, if it is what is expected; `verify` reads every byte against its sha256.

        Raises StoreError naming the field of the key that differs, or the file that is missing, of another
        size or damaged.
        """
        manifest = read_manifest(folder / MANIFEST)
        if manifest is None:
            raise StoreError(f"{folder}: there is no finished feature store; extract the features (again).")
        refuse_mismatch(manifest.key, expected, str(folder))
        check_shards(folder, manifest, verify=verify)
        return FeatureStore(folder, manifest, expected)

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, image: str) -> bool:
        return image in self._place

    @property
    def sizes(self) -> Sizes:
        """P and V of every view."""
        return self.manifest.sizes

    @property
    def size(self) -> int:
        """Bytes of all shards on the disk."""
        return sum(shard.size for shard in self.manifest.shards)

    def read(self, image: str, view: int = 0) -> Float[Tensor, "P V"]:
        """Read one view of the picture whose bytes have this sha256, in the store's dtype.

        Raises StoreError for a picture or a view that is not stored.
        """
        if image not in self._place:
            raise StoreError(f"{self.folder}: no picture with sha256 {image} is stored; extract it first.")
        if not 0 <= view < self.key.views.count:
            raise StoreError(f"{self.folder}: view {view} is not stored; there are {self.key.views.count}.")
        shard, row = self._place[image]
        patches: Tensor = self._slices(shard)[row, view]
        return patches.clone()

    def locate(self, images: Iterable[Path | PictureBytes]) -> list[str]:
        """Hash pictures, in order, and check that each is stored as it is now.

        Raises StoreError naming the first that is not: it was added, or its bytes changed, since extraction.
        """
        pictures = list(images)
        hashes = picture_hashes(pictures)
        for picture, image in zip(pictures, hashes, strict=True):
            if image not in self:
                raise StoreError(
                    f"{picture}: the picture is not in the feature store {self.folder}, since it is new or its "
                    "bytes changed; extract the features again to add it."
                )
        return hashes

    def _slices(self, shard: int) -> Any:
        """The shard's lazy tensor; the handles used last stay open."""
        if shard not in self._open:
            path = self.folder / self.manifest.shards[shard].file
            try:
                file: Any = safe_open(path, framework="pt")
                self._open[shard] = file.get_slice(TENSOR)
            except (OSError, SafetensorError) as error:
                raise _unreadable(path, f"cannot be opened ({error})") from error
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}


class StoredLook:
    """Rows see stored patches: a `Look` for the loaders of `isthmus.data`, bound to one source.

    With a `seed`, training: a stored view drawn by (seed, epoch, index). Without, evaluation: the centre view.

    Raises StoreError when a picture of the source is not stored as it is now.
    """

    def __init__(self, store: FeatureStore, source: Source, *, seed: int | None) -> None:
        self._store = store
        self._images = store.locate(source[index].image for index in range(len(source)))
        self._seed = seed

    def __call__(self, example: Example, index: int, epoch: int) -> Float[Tensor, "P V"]:
        """Read the patches of row `index` of the source."""
        return self._read(index, epoch)

    def again(self, index: Int[Tensor, " R"], epoch: Int[Tensor, " R"]) -> Float[Tensor, "R P V"]:
        """Read rows that a batch had before, by the keys that it carries; on the CPU."""
        return torch.stack([self._read(*keys) for keys in zip(index.tolist(), epoch.tolist(), strict=True)])

    def _read(self, index: int, epoch: int) -> Float[Tensor, "P V"]:
        views = self._store.key.views.count
        if self._seed is None or views == 1:
            return self._store.read(self._images[index])
        draw = float(uniform(self._seed, _VIEW, epoch, index))
        return self._store.read(self._images[index], int(draw * views))


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest or a sidecar; None where there is none. Raises StoreError for a damaged one."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: the file cannot be read ({error}).") from error
    return Manifest.from_json(text, str(path))


def check_shards(folder: Path, manifest: Manifest, *, verify: bool) -> None:
    """Check every shard's presence and size, and its sha256 if asked; raises StoreError naming the file."""
    for shard in manifest.shards:
        path = folder / shard.file
        if not path.is_file():
            problem = "is missing"
        elif path.stat().st_size != shard.size:
            problem = f"has {path.stat().st_size} bytes, not {shard.size}"
        elif verify and file_sha256(path) != shard.sha256:
            problem = "is damaged: its sha256 is not the one written"
        else:
            continue
        raise _unreadable(path, problem)


def _unreadable(path: Path, problem: str) -> StoreError:
    return StoreError(f"{path}: the shard {problem}; delete the store and extract again.")

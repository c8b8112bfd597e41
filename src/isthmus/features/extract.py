"""Encode pictures into a feature store: each once, shard by shard, so that a stop loses one shard at most.

A finished shard is followed by a sidecar, its own small manifest. The store's manifest comes last and makes
the sidecars superfluous; until then a restart goes on from them.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from isthmus.data.hashes import picture_hashes
from isthmus.errors import DataError, StoreError
from isthmus.features.encode import Work, encode, encoded_shards
from isthmus.features.files import write_atomically
from isthmus.features.key import Manifest, Shard, Sizes, StoreKey, Views, refuse_mismatch, store_key
from isthmus.features.store import MANIFEST, TENSOR, FeatureStore, check_shards, read_manifest
from isthmus.fingerprint import file_sha256
from isthmus.vision.encoder import Encoder

_WORK = Work()

Progress = Callable[[int, int], object]
"""Called with (pictures stored, pictures wanted)."""

_log = logging.getLogger(__name__)


def planned_bytes(pictures: int, encoder: Encoder, views: Views) -> int:
    """Bytes that the patches of so many different pictures take; encodes one blank picture to know P and V."""
    return pictures * _measure(encoder).row_bytes(views)


def extract(
    images: Sequence[Path],
    encoder: Encoder,
    *,
    folder: Path,
    views: Views,
    work: Work = _WORK,
    progress: Progress | None = None,
) -> FeatureStore:
    """Fill a feature store with pictures, on the encoder's own device, and open it.

    View 0 is the centre, the others keyed crops. Pictures that are stored, by their bytes, are not encoded
    again: a complete store returns at once, an interrupted one goes on, another set of pictures is added.

    Raises DataError naming a bad picture; StoreError for a store of another key, too little space on the disk,
    or patches that are not finite in the store's dtype.
    """
    key = store_key(encoder, views)
    pictures = _different_pictures(images)
    stored = _finished(folder, key)
    there = dict(stored.locations()) if stored else {}
    missing = [picture for picture in pictures.items() if picture[0] not in there]
    if stored is None or missing:
        stored = stored or Manifest(key.fields(), _measure(encoder), ())
        needed = len(missing) * stored.sizes.row_bytes(views)
        _check_space(folder, needed, f"{len(missing)} of {len(pictures)} pictures")
        report = _counted(progress, len(pictures) - len(missing), len(pictures))
        keep = (views, stored.sizes)
        for hashes, patches in encoded_shards(missing, encoder, keep=keep, work=work, report=report):
            shard = _write_shard(folder, stored, hashes, patches)
            stored = replace(stored, shards=(*stored.shards, shard))
    _publish(folder, stored)
    return FeatureStore.open(folder, key)


def _different_pictures(images: Sequence[Path]) -> dict[str, Path]:
    """Every different content, by its hash, with the first file that has it."""
    if not images:
        raise DataError("There are no pictures to extract features from; give at least one.")
    paths: dict[str, Path] = {}
    for image, path in zip(picture_hashes(images), images, strict=True):
        paths.setdefault(image, path)
    return paths


def _counted(progress: Progress | None, before: int, total: int) -> Callable[[int], object]:
    """Tell the caller of each picture encoded, counting those that were stored before."""
    return lambda encoded: progress(before + encoded, total) if progress else None


def _measure(encoder: Encoder) -> Sizes:
    """Encode one blank picture to know P and V."""
    view = encoder.preprocessing.centre(Image.new("RGB", (16, 16)))
    patches = encode(encoder, view[None])
    return Sizes(patches.shape[1], patches.shape[2])


def _check_space(folder: Path, needed: int, what: str) -> None:
    """Make the folder and say how large it will become, before anything is written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder}: the folder cannot be made ({error.strerror}); choose another.") from error
    free = shutil.disk_usage(folder).free
    _log.info("%s: extracting %s, %.3f GB", folder, what, needed / 1e9)
    if needed > free:
        raise StoreError(
            f"{folder}: the patches of {what} take {needed / 1e9:.3f} GB and {free / 1e9:.3f} GB are free; "
            "free space, choose another disk, keep fewer views or train from pixels."
        )


def _finished(folder: Path, key: StoreKey) -> Manifest | None:
    """The manifest, continued by the sidecars of shards that an interrupted run finished."""
    stored: Manifest | None = None
    for path in (folder / MANIFEST, *sorted(folder.glob("shard-*.json"))):
        part = read_manifest(path)
        if part is None:
            continue
        refuse_mismatch(part.key, key, str(folder))
        check_shards(folder, part, verify=False)
        known = stored.shards if stored else ()
        stored = replace(part, shards=known + tuple(shard for shard in part.shards if shard not in known))
    return stored


def _publish(folder: Path, stored: Manifest) -> None:
    """Write the manifest, unless it stands there already, and remove the sidecars, which it replaces."""
    path = folder / MANIFEST
    if read_manifest(path) != stored:
        write_atomically(path, lambda file: file.write_text(stored.to_json(), encoding="utf-8"))
    for sidecar in folder.glob("shard-*.json"):
        sidecar.unlink()


def _write_shard(
    folder: Path, stored: Manifest, images: tuple[str, ...], patches: Float[Tensor, "rows K P V"]
) -> Shard:
    """Write the next shard, then its sidecar."""
    path = folder / f"shard-{len(stored.shards):05d}.safetensors"
    try:
        write_atomically(path, lambda file: save_file({TENSOR: patches}, file))
        shard = Shard(path.name, file_sha256(path), path.stat().st_size, images)
        part = replace(stored, shards=(shard,)).to_json()
        write_atomically(path.with_suffix(".json"), lambda file: file.write_text(part, encoding="utf-8"))
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path}: the shard cannot be written ({error}); free space and run again.") from error
    return shard

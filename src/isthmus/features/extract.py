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

from isthmus.data.broken import Bad, BrokenPictures
from isthmus.data.hashes import known_hashes, picture_hashes
from isthmus.data.screen import why_unreadable
from isthmus.errors import DataError, StoreError
from isthmus.features.encode import Work, encode, encoded_shards
from isthmus.features.key import Manifest, Shard, Sizes, StoreKey, Views, refuse_mismatch, store_key
from isthmus.features.pace import Pace
from isthmus.features.store import MANIFEST, TENSOR, FeatureStore, check_shards, read_manifest
from isthmus.files import write_atomically
from isthmus.fingerprint import file_sha256
from isthmus.records import PictureBytes
from isthmus.vision.encoder import Encoder

_WORK = Work()

Progress = Callable[[int, int], object]
"""Called with (pictures stored, pictures wanted)."""

_log = logging.getLogger(__name__)


def planned_bytes(pictures: int, encoder: Encoder, views: Views) -> int:
    """Bytes that the patches of so many different pictures take; encodes one blank picture to know P and V."""
    return pictures * _measure(encoder).row_bytes(views)


def extract(
    images: Sequence[Path | PictureBytes],
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

    A picture that cannot be read is left out where `work.broken` bears it. The log tells pictures a second, and how
    far that is from the encoder alone.

    Raises DataError naming a bad picture otherwise, or where too many are bad; StoreError for a store of another key,
    too little space on the disk, or patches that are not finite in the store's dtype.
    """
    key = store_key(encoder, views)
    tally = _Tally(images, work.broken, progress)
    stored = _finished(folder, key)
    there = dict(stored.locations()) if stored else {}
    missing = [(image, copies[0]) for image, copies in tally.copies.items() if image not in there]
    tally.stored([image for image in tally.copies if image in there])
    if stored is None or missing:
        stored = stored or Manifest(key.fields(), _measure(encoder), ())
        needed = len(missing) * stored.sizes.row_bytes(views)
        _check_space(folder, needed, f"{len(missing)} of {len(tally.copies)} pictures")
        keep, pace = (views, stored.sizes), Pace()
        for hashes, patches in encoded_shards(missing, encoder, keep=keep, work=work, watch=(tally, pace)):
            shard = _write_shard(folder, stored, hashes, patches)
            stored = replace(stored, shards=(*stored.shards, shard))
        _log.info("%s: %s", folder, pace.line())
    tally.finish()
    _publish(folder, stored)
    return FeatureStore.open(folder, key)


class _Tally:
    """Every different picture by its hash, with all that have its bytes, and how many were met so far.

    Raises DataError where there is no picture, and for one that cannot be read unless `broken` bears it.
    """

    def __init__(
        self, images: Sequence[Path | PictureBytes], broken: BrokenPictures | None, progress: Progress | None
    ) -> None:
        if not images:
            raise DataError("There are no pictures to extract features from; give at least one.")
        self.copies: dict[str, list[Path | PictureBytes]] = {}
        self._broken = broken if broken is not None and broken.tolerated else None
        self._progress = progress
        self._encoded = self._bad = 0
        for image, picture in zip(self._hashes(images), images, strict=True):
            if image is not None:
                self.copies.setdefault(image, []).append(picture)

    def _hashes(self, images: Sequence[Path | PictureBytes]) -> Sequence[str | None]:
        if self._broken is None:
            return picture_hashes(images)
        hashes = known_hashes(images)
        lost = [why_unreadable(picture) for picture, image in zip(images, hashes, strict=True) if image is None]
        self._broken.met(len(lost), [bad for bad in lost if bad is not None])
        return hashes

    def stored(self, images: Sequence[str]) -> None:
        """Count pictures that were stored before."""
        self._encoded += len(images)
        if self._broken is not None:
            self._broken.met(sum(len(self.copies[image]) for image in images))

    def __call__(self, encoded: Sequence[str], bad: Sequence[tuple[str, DataError]]) -> None:
        """Count pictures encoded, and bad ones; in the share of bad ones every copy counts."""
        if bad and self._broken is None:
            raise bad[0][1]
        self.stored(encoded)
        self._bad += len(bad)
        if self._broken is not None:
            found = [Bad.of(copy, error) for image, error in bad for copy in self.copies[image]]
            self._broken.met(len(found), found)
        if encoded and self._progress:
            self._progress(self._encoded, len(self.copies) - self._bad)

    def finish(self) -> None:
        """Judge the share of bad pictures, however few there were."""
        if self._broken is not None:
            self._broken.judge()


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
    try:
        if read_manifest(path) != stored:
            write_atomically(path, lambda file: file.write_text(stored.to_json(), encoding="utf-8"))
        for sidecar in folder.glob("shard-*.json"):
            sidecar.unlink()
    except OSError as error:
        raise _not_written(path, error) from error


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
        raise _not_written(path, error) from error
    return shard


def _not_written(path: Path, error: Exception) -> StoreError:
    """What is said when the disk is full, for example: the shards before stay, and the next run goes on from them."""
    reason = getattr(error, "strerror", None) or error
    return StoreError(
        f"{path}: the file cannot be written ({reason}); free space and run again, what is there is kept."
    )

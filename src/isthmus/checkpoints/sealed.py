"""Folders of our own: whole or not at all, with the sha256 of their files in a marker that is written last.

A folder is filled under another name, beside its place. Its files are on the disk before the marker is, the marker
before the folder is renamed, and its new name before anything else is done. Whatever is cut off, and whenever, there is
a whole folder in the place or none, and what was there before is not lost. Files are safetensors and JSON.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from isthmus.errors import CheckpointError
from isthmus.files import flush, flush_tree, make_folder
from isthmus.fingerprint import file_sha256

MARKER, UNFINISHED = "complete", ".tmp-"


def seal(folder: Path, names: Iterable[str], known: Mapping[str, str] | None = None) -> None:
    """Write the marker, once all else in the folder is on the disk: the sums of these files, and those `known`."""
    flush_tree(folder)
    write_json(folder / MARKER, {**(known or {}), **{name: file_sha256(folder / name) for name in names}})


def read_sums(folder: Path) -> dict[str, Any]:
    """The sums in a folder's marker; raises `CheckpointError` where it is damaged."""
    try:
        return read_json(folder / MARKER)
    except ValueError as problem:
        raise CheckpointError(f"{folder / MARKER} is damaged; take the folder from where it was copied") from problem


def check_sum(folder: Path, name: str, sums: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` where a file is not what it was when the folder was sealed."""
    if file_sha256(folder / name) != sums.get(name):
        raise CheckpointError(f"{folder / name} is damaged: its sha256 is not the one it was saved with")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object of JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read an object of JSON; raises ValueError for what is none."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no object")
    return content


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors by name; raises `CheckpointError` where the file is none of safetensors.

    They own their memory: a folder may be replaced or removed while what was read from it is in use.
    """
    try:
        return load_file(path, backend="pread")
    except SafetensorError as problem:
        raise CheckpointError(f"{path} is no readable safetensors file ({problem})") from problem


def bytes_of(*several: Mapping[str, Tensor]) -> int:
    """How many bytes the values of tensors take."""
    return sum(tensor.nbytes for tensors in several for tensor in tensors.values())


@contextmanager
def replacement(folder: Path, needed: int = 0) -> Iterator[Path]:
    """A scratch folder beside `folder` that takes its place when the block ends well, and is gone when it does not.

    Raises `CheckpointError` before anything is written where `needed` bytes are not free, and where the disk turns out
    to be full, or cannot be written.
    """
    try:
        make_folder(folder.parent)
        _check_space(folder, needed)
        scratch = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{folder.name}-", dir=folder.parent))
    except OSError as problem:
        raise CheckpointError(f"{folder} cannot be written ({problem.strerror}); choose another place") from problem
    try:
        scratch.chmod(0o755)  # mkdtemp keeps others out; a model folder is read like any other
        yield scratch
        flush_tree(scratch)
        _replace(scratch, folder)
    except (OSError, SafetensorError) as problem:
        raise CheckpointError(f"{folder} could not be written ({problem}); free some space") from problem
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise CheckpointError(
            f"{folder} takes {needed / 1e9:.3f} GB and {free / 1e9:.3f} GB are free; free space, or choose another disk"
        )


def _replace(scratch: Path, folder: Path) -> None:
    """Put a finished folder in its place; what was there stays, under another name, until the new one is whole."""
    old = replaced(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        scratch.rename(folder)
    except BaseException:
        recover(folder)
        raise
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def replaced(folder: Path) -> Path:
    """Where what is in a folder's place waits until the new one is there."""
    return folder.with_name(f".{folder.name}-old")


def recover(folder: Path) -> None:
    """Give a folder that was being replaced when a process died its name back."""
    if not folder.exists() and replaced(folder).is_dir():
        replaced(folder).rename(folder)

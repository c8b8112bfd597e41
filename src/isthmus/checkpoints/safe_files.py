"""Safetensors weights of other libraries, whole or in shards: their keys first, then only what is wanted."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from isthmus.errors import CheckpointError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def weight_files(folder: Path) -> dict[str, Path]:
    """Every key of a folder's weights with the file that it is in; raises `CheckpointError` where there are none."""
    if (folder / INDEX).is_file():
        try:
            shards = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError) as problem:
            raise CheckpointError(f"{folder / INDEX} is damaged; fetch it again") from problem
        files = [folder / name for name in sorted({*shards.values()})]
    else:
        files = [folder / WEIGHTS]
    found: dict[str, Path] = {}
    for file in files:
        if not file.is_file():
            pickled = sorted(folder.glob("*.bin"))
            more = f"; {pickled[0].name} is a pickle, which is never read: save it as safetensors" if pickled else ""
            raise CheckpointError(f"{folder} lacks {file.name}{more}")
        found |= dict.fromkeys(_keys(file), file)
    return found


def read_tensors(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """Read these keys, each from its file.

    Raises `CheckpointError` naming a file that is damaged, or a key whose values are not finite: other libraries keep
    no sums, so that no more can be seen.
    """
    read: dict[str, Tensor] = {}
    for file in sorted({*files.values()}):
        try:
            with safe_open(file, "pt") as opened:
                read |= {key: opened.get_tensor(key) for key, place in files.items() if place == file}
        except (SafetensorError, OSError) as problem:
            raise damaged(file, problem) from problem
    for key, tensor in read.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{files[key]} is damaged: {key} holds values that are not finite; fetch it again")
    return read


def on_meta(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """Each of these keys with a tensor of its shape on the meta device: no weights are read."""
    described: dict[str, Tensor] = {}
    for file in sorted({*files.values()}):
        with safe_open(file, "pt") as opened:
            for key in (key for key, place in files.items() if place == file):
                described[key] = torch.empty(opened.get_slice(key).get_shape(), device="meta")
    return described


def _keys(file: Path) -> list[str]:
    try:
        with safe_open(file, "pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as problem:
        raise damaged(file, problem) from problem


def damaged(file: Path, problem: Exception) -> CheckpointError:
    """What to say of a file that is there and cannot be read."""
    return CheckpointError(f"{file} is no readable safetensors file ({problem}); fetch it again")

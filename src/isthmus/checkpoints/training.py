"""A training checkpoint: a model folder with all beside it that a run needs to go on as if it had never stopped.

config.json, model.safetensors, tokenizer files    the bridge, as in every model folder (native.py)
optimizer.safetensors    the moments and step counts of the optimizer, by the parameter's name
random.safetensors       the states of the generators of random numbers
training.json            where the run stands: JSON of whoever trains
complete                 the sha256 of every one of these files, written last

Nothing else is read. A pickle is refused where it lies, and none is ever opened; what a config says of code is not
followed. Any size or sum that does not fit ends the reading with the file's or the tensor's name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isthmus.checkpoints.native import CONFIG, WEIGHTS, lay_bridge, read_bridge
from isthmus.checkpoints.sealed import (
    MARKER,
    bytes_of,
    check_sum,
    load_tensors,
    read_json,
    read_sums,
    recover,
    replacement,
    save_tensors,
    seal,
    write_json,
)
from isthmus.errors import CheckpointError
from isthmus.records import BridgeFile

OPTIMIZER, RANDOM, TRAINING = "optimizer.safetensors", "random.safetensors", "training.json"
FORMAT = 1
_FILES = (CONFIG, WEIGHTS, OPTIMIZER, RANDOM, TRAINING)
_MOMENTS = ("exp_avg", "exp_avg_sq")
_PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
_NAMED = 5


@dataclass(frozen=True)
class TrainingFile:
    """A training checkpoint in memory; every tensor lies on the CPU.

    `optimizer` holds, of each parameter that was trained, `NAME.exp_avg` and `NAME.exp_avg_sq` of its shape and
    `NAME.step`, one number; it is empty before the first step. `random` holds states of generators as bytes (uint8), by
    names of the trainer's choosing. `position` is JSON: what the trainer needs to go on (tuples come back as lists).
    """

    bridge: BridgeFile
    optimizer: dict[str, Tensor]
    random: dict[str, Tensor]
    position: dict[str, Any]


def write_training(file: TrainingFile, folder: Path, *, save_tokenizer: Callable[[Path], None] | None = None) -> None:
    """Write a checkpoint, whole or not at all, in the place of whatever is at `folder`.

    Raises `CheckpointError` where there is too little room, the disk is full or the place cannot be written; what was
    there is there still, and nothing beside it.
    """
    recover(folder)
    needed = bytes_of(file.bridge.tensors, file.optimizer, file.random)
    with replacement(folder, needed) as scratch:
        lay_bridge(file.bridge, scratch, save_tokenizer)
        save_tensors(scratch / OPTIMIZER, file.optimizer)
        save_tensors(scratch / RANDOM, file.random)
        write_json(scratch / TRAINING, {"format_version": FORMAT, "position": file.position})
        seal(scratch, [str(path.relative_to(scratch)) for path in sorted(scratch.rglob("*")) if path.is_file()])


def read_training(folder: Path) -> TrainingFile:
    """Read a checkpoint that is whole and undamaged; the tensors own their memory.

    Raises `CheckpointError` naming the file, tensor or shape that is missing, damaged, foreign or of another format.
    """
    try:
        _check_files(folder)
        bridge = read_bridge(folder)
        optimizer, random = load_tensors(folder / OPTIMIZER), load_tensors(folder / RANDOM)
        position = _position(folder / TRAINING)
    except OSError as problem:
        raise CheckpointError(
            f"{problem.filename or folder} cannot be read ({problem.strerror or problem}); see to its disk"
        ) from problem
    check_tensors(optimizer, _moments(optimizer, bridge.tensors), folder / OPTIMIZER)
    for name, state in random.items():
        if state.dtype is not torch.uint8 or state.dim() != 1:
            raise CheckpointError(f"{folder / RANDOM} holds {name}, which is no state of a generator")
    return TrainingFile(bridge, optimizer, random, position)


def check_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, Sequence[int]], path: Path) -> None:
    """See that the tensors of a file are those wanted, by name and shape.

    Raises `CheckpointError` naming those that are missing, unexpected or of another shape, with both shapes.
    """
    wrong = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    wrong += [f"{name} is not known" for name in sorted(found.keys() - wanted.keys())]
    wrong += [
        f"{name} is {tuple(found[name].shape)} and should be {tuple(wanted[name])}"
        for name in sorted(wanted.keys() & found.keys())
        if tuple(found[name].shape) != tuple(wanted[name])
    ]
    if wrong:
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise CheckpointError(f"{path} does not fit: {', '.join(wrong[:_NAMED])}{more}; give a checkpoint of this run")


def _check_files(folder: Path) -> None:
    """See that every file is there and is what it was saved as, and that no pickle lies among them."""
    recover(folder)
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}; give a checkpoint of a training run")
    if pickles := sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICKLES):
        raise CheckpointError(
            f"{pickles[0]} has the name of a pickle, which can run code and is no part of a checkpoint; it was not "
            "read: find out who put it there"
        )
    if not (folder / MARKER).is_file():
        raise CheckpointError(f"{folder} is no whole checkpoint: it lacks {MARKER}; give another one")
    sums = read_sums(folder)
    for name in sorted({*_FILES, *sums}):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is no whole checkpoint: it lacks {name}; give another one")
        if name not in (CONFIG, WEIGHTS):  # which the reader of bridges checks
            check_sum(folder, name, sums)


def _position(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except ValueError as problem:
        raise CheckpointError(f"{path} is not what isthmus writes; give another checkpoint") from problem
    if content.get("format_version") != FORMAT:
        raise CheckpointError(
            f"{path} has format version {content.get('format_version')}, this isthmus reads {FORMAT}; update isthmus"
        )
    position = content.get("position")
    if not isinstance(position, dict):
        raise CheckpointError(f"{path} lacks the run's position; give another checkpoint")
    return position


def _moments(optimizer: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Sequence[int]]:
    """The tensors that an optimizer has of each parameter that it has any of, by name, with their shapes."""
    trained = {name.rpartition(".")[0] for name in optimizer} & parameters.keys()
    wanted: dict[str, Sequence[int]] = {f"{name}.step": () for name in trained}
    return wanted | {f"{name}.{moment}": parameters[name].shape for name in trained for moment in _MOMENTS}

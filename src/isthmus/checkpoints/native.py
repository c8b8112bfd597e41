"""isthmus's own model folder (DESIGN 5.4): the bridge, never the towers.

config.json         format version, sizes, provenance (stage, towers' addresses and fingerprints, prompt)
model.safetensors   the bridge's tensors, by name
README.md           the model card, made of the provenance
tokenizer files     the Q-Former's own, where it has a text half
complete            the sha256 of the two files above, written last
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from isthmus.checkpoints.card import model_card
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
from isthmus.records import BridgeFile, BridgeSizes

FORMAT = 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def check_model_place(folder: Path) -> None:
    """Raise `CheckpointError` where a place holds something that is no model folder of ours, so that nothing is lost.

    A config.json is not enough: folders of transformers have one, and their weights beside it.
    """
    if folder.exists() and not _is_ours(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is no model folder of isthmus; choose another place")


def _is_ours(folder: Path) -> bool:
    try:
        return "format_version" in read_json(folder / CONFIG)
    except (OSError, ValueError):
        return (folder / MARKER).is_file()  # damaged, and ours


def write_bridge(
    file: BridgeFile,
    folder: Path,
    *,
    save_tokenizer: Callable[[Path], None] | None = None,
    card: str | None = None,
) -> None:
    """Write a model folder, whole or not at all: beside its place first, then renamed over what was there.

    `card` is the model card, README.md.

    Raises `CheckpointError` when the place cannot be written or holds something that is no model folder.
    """
    recover(folder)
    check_model_place(folder)
    with replacement(folder, bytes_of(file.tensors)) as scratch:
        lay_bridge(file, scratch, save_tokenizer)
        if card is not None:
            (scratch / CARD).write_text(card, encoding="utf-8")
        seal(scratch, (CONFIG, WEIGHTS))


def lay_bridge(file: BridgeFile, folder: Path, save_tokenizer: Callable[[Path], None] | None) -> None:
    """Write a bridge's config, weights and tokenizer into a folder that somebody else seals."""
    content = {"format_version": FORMAT, "sizes": asdict(file.sizes), "provenance": file.provenance}
    write_json(folder / CONFIG, content)
    save_tensors(folder / WEIGHTS, file.tensors)
    if save_tokenizer is not None:
        save_tokenizer(folder)


def update_provenance(folder: Path, values: Mapping[str, Any]) -> None:
    """Put values into a model folder's provenance at their top-level keys, whole or not at all.

    The weights are linked, not copied, and keep the sum that they were saved with: damage stays damage. A model card
    is written anew, unless somebody changed it.
    Raises `CheckpointError` for what is no whole model folder, or cannot be written.
    """
    sums, content = _sealed_config(folder)
    card, provenance = folder / CARD, {**content["provenance"], **values}
    ours = card.is_file() and card.read_text(encoding="utf-8") == model_card(content["provenance"])
    with replacement(folder) as scratch:
        for path in folder.iterdir():
            if path.name not in (CONFIG, MARKER):
                shutil.copytree(path, scratch / path.name) if path.is_dir() else _link(path, scratch / path.name)
        if ours:
            (scratch / CARD).unlink()  # the link, not what it leads to
            (scratch / CARD).write_text(model_card(provenance), encoding="utf-8")
        write_json(scratch / CONFIG, {**content, "provenance": provenance})
        seal(scratch, (CONFIG,), known=sums)


def read_provenance(folder: Path) -> dict[str, Any]:
    """What a model folder says of its making; of its weights no more is read than shows that none of them is cut off.

    Raises `CheckpointError` naming what is missing, damaged, of another format or cannot be read.
    """
    try:
        _, content = _sealed_config(folder)
        with safe_open(folder / WEIGHTS, "pt"):
            provenance: dict[str, Any] = content["provenance"]
    except OSError as problem:
        raise CheckpointError(
            f"{problem.filename or folder} cannot be read ({problem.strerror or problem}); see to its permissions"
        ) from problem
    except SafetensorError as problem:
        raise CheckpointError(
            f"{folder / WEIGHTS} is damaged ({problem}); take it from where it was copied"
        ) from problem
    return provenance


def read_bridge(folder: Path) -> BridgeFile:
    """Read a model folder; raises `CheckpointError` naming what is missing, damaged or of another format."""
    sums, content = _sealed_config(folder)
    check_sum(folder, WEIGHTS, sums)
    tensors = load_tensors(folder / WEIGHTS)
    return BridgeFile(_sizes(content["sizes"], folder), tensors, content["provenance"])


def outline_bridge(folder: Path) -> BridgeFile:
    """Read a model folder without its weights: every tensor is made anew, with no more than its shape and dtype.

    Only where tensors have no storage (`shadow`). Raises `CheckpointError` as `read_bridge`, but for damaged weights.
    """
    _, content = _sealed_config(folder)
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as problem:
        raise CheckpointError(f"{folder / WEIGHTS} is no readable safetensors file ({problem})") from problem
    tensors = {name: torch.empty(shape) for name, shape in shapes.items()}
    return BridgeFile(_sizes(content["sizes"], folder), tensors, content["provenance"])


def _sealed_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The marker's sums and the content of config.json, which is what it was saved as."""
    recover(folder)
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}; give the folder of a training run")
    missing = [name for name in (CONFIG, WEIGHTS, MARKER) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} is no model folder: it lacks {missing[0]}; give the bridge of a training run")
    sums = read_sums(folder)
    check_sum(folder, CONFIG, sums)
    try:
        content = read_json(folder / CONFIG)
    except ValueError as problem:
        raise CheckpointError(f"{folder / CONFIG} is no config of a bridge; give another folder") from problem
    if content.get("format_version") != FORMAT:
        raise CheckpointError(
            f"{folder} has format version {content.get('format_version')}, this isthmus reads {FORMAT}; update isthmus"
        )
    if not all(isinstance(content.get(name), dict) for name in ("sizes", "provenance")):
        raise CheckpointError(f"{folder / CONFIG} lacks sizes or provenance; give another folder")
    return sums, content


def _sizes(content: dict[str, Any], folder: Path) -> BridgeSizes:
    """The sizes; those that are younger than the folder are at their defaults, which is what it was made with."""
    known = {field.name for field in fields(BridgeSizes)}
    if names := sorted(set(content) - known | {"vision_width"} - set(content)):
        raise CheckpointError(f"{folder / CONFIG} has other sizes than this isthmus knows: {', '.join(names)}")
    return BridgeSizes(**content)


def _link(path: Path, target: Path) -> None:
    try:
        target.hardlink_to(path)
    except OSError:  # a file system without hard links
        shutil.copy2(path, target)

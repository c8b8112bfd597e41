"""Folders of transformers ↔ the tensors of a bridge; the towers in them are somebody else's to load.

    Blip2ForConditionalGeneration        stage 2: query path and projection
    InstructBlipForConditionalGeneration the same with the text half, which reads the instruction
    Blip2ForImageTextRetrieval           stage 1 without LM head and temperature, for which it has no place
    Blip2QFormerModel                    the Q-Former alone; all else lies beside it, in a file of our own

The last LayerNorm of their vision model is the bridge's LayerNorm on the patches.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from isthmus.checkpoints.keymap import (
    CONDITIONAL,
    INSTRUCT,
    QFORMER,
    RETRIEVAL,
    KeyTable,
    check_keys,
    from_bridge,
    to_bridge,
)
from isthmus.checkpoints.rest import read_rest
from isthmus.checkpoints.safe_files import read_tensors, weight_files
from isthmus.errors import CheckpointError
from isthmus.records import BridgeFile, BridgeSizes

CONFIG = "config.json"
TABLES = {table.name: table for table in (CONDITIONAL, INSTRUCT, RETRIEVAL, QFORMER)}


@dataclass(frozen=True)
class ForeignFolder:
    """A folder of transformers as its config describes it: which class it is of, and the bridge's sizes in it."""

    folder: Path
    table: KeyTable
    config: Any
    sizes: BridgeSizes


def open_transformers(folder: Path, read_config: Callable[[str], Any]) -> ForeignFolder:
    """Read the config of a folder, by transformers' own `AutoConfig.from_pretrained`, which knows the defaults.

    Raises `CheckpointError` for one that is of another class, or names code to run: it is not read then.
    """
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise CheckpointError(f"{folder / CONFIG} cannot be read; give a folder that transformers wrote") from problem
    if not isinstance(content, dict):
        raise CheckpointError(f"{folder / CONFIG} is no config of a model; give a folder that transformers wrote")
    if named := _auto_map(content):
        raise CheckpointError(
            f"{folder / CONFIG} names code to run (auto_map in {named}), which isthmus never does; give a folder of "
            "transformers' own classes"
        )
    classes = content.get("architectures") or []
    table = next((TABLES[name] for name in classes if name in TABLES), None)
    if table is None:
        raise CheckpointError(f"{folder} is of {classes or 'no named class'}; known are {', '.join(TABLES)}")
    try:
        config = read_config(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        reason = str(problem).strip().partition("\n")[0]
        raise CheckpointError(
            f"{folder / CONFIG} is none that transformers reads ({reason}); fetch it again"
        ) from problem
    qformer = config if table is QFORMER else config.qformer_config
    if qformer.hidden_act != "gelu":
        raise CheckpointError(f"{folder} has a Q-Former of {qformer.hidden_act!r}; ours computes 'gelu' only")
    return ForeignFolder(folder, table, config, _sizes(table, config, folder))


def read_transformers(foreign: ForeignFolder) -> BridgeFile:
    """Read the bridge out of a folder, in fp32; its provenance says no more than the layout.

    Raises `CheckpointError` naming keys that are missing or in no table, and files that are damaged.
    """
    folder, table = foreign.folder, foreign.table
    files = weight_files(folder)
    wanted = check_keys(table, foreign.sizes, files, folder)
    read = read_tensors({key: files[key] for key in wanted.values()})
    tensors = {ours: to_bridge(ours, read[theirs]) for ours, theirs in wanted.items()}
    if table is QFORMER:
        tensors |= read_rest(folder)[1]
    return BridgeFile(foreign.sizes, tensors, {"layout": table.name})


def to_transformers(file: BridgeFile, table: KeyTable) -> tuple[dict[str, Tensor], list[str]]:
    """A bridge's tensors by the names of a layout, and what that layout has no place for, by our names."""
    names = table.keys(file.sizes)
    return {names[ours]: from_bridge(ours, file.tensors[ours]) for ours in names}, table.lost(file.sizes)


def _auto_map(content: Any, where: str = "the config") -> str | None:
    """Where a config, or one inside of it, asks for code from the folder to be run."""
    if not isinstance(content, dict):
        return None
    if "auto_map" in content:
        return where
    return next((found for key, value in content.items() if (found := _auto_map(value, key))), None)


def _sizes(table: KeyTable, config: Any, folder: Path) -> BridgeSizes:
    """Every size of the bridge in a folder, as its config says."""
    if table is QFORMER:
        return read_rest(folder)[0]
    qformer, vision = config.qformer_config, config.vision_config
    return BridgeSizes(
        vision_width=vision.hidden_size,
        width=qformer.hidden_size,
        layers=qformer.num_hidden_layers,
        heads=qformer.num_attention_heads,
        feed_forward_width=qformer.intermediate_size,
        queries=config.num_query_tokens,
        cross_frequency=qformer.cross_attention_frequency,
        vocabulary=qformer.vocab_size,
        positions=qformer.max_position_embeddings,
        norm_eps=qformer.layer_norm_eps,
        patch_norm_eps=vision.layer_norm_eps,
        text=table is not CONDITIONAL,
        shared_width=config.image_text_hidden_size if table is RETRIEVAL else None,
        language_width=None if table is RETRIEVAL else config.text_config.hidden_size,
        lm_head=False,
        temperature=False,
    )

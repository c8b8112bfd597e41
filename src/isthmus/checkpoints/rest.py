"""What `Blip2QFormerModel` has no place for (queries, patch LayerNorm, heads, projection), in a file beside it.

transformers does not look at this file; with it the folder is a bridge again.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from isthmus.checkpoints.safe_files import damaged
from isthmus.errors import CheckpointError
from isthmus.records import BridgeSizes

REST = "isthmus_rest.safetensors"


def write_rest(sizes: BridgeSizes, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write tensors by our names, and the sizes of the whole bridge."""
    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(kept, folder / REST, metadata={"sizes": json.dumps(asdict(sizes))})


def read_rest(folder: Path) -> tuple[BridgeSizes, dict[str, Tensor]]:
    """Read what `write_rest` wrote; raises `CheckpointError` where it is not there or damaged."""
    path = folder / REST
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds a Q-Former alone: its queries and its LayerNorm on the patches are absent, and "
            f"{REST}, in which isthmus keeps them, is not beside it"
        )
    try:
        with safe_open(path, "pt") as opened:
            content = json.loads(opened.metadata()["sizes"])
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as problem:
        raise damaged(path, problem) from problem
    if names := sorted(set(content) - {field.name for field in fields(BridgeSizes)}):
        raise CheckpointError(f"{path} has sizes that this isthmus does not know: {', '.join(names)}; update isthmus")
    return BridgeSizes(**content), tensors

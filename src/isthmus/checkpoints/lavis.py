"""LAVIS' `.pth` files → a bridge: stage 1, stage 2 before OPT, T5 or Vicuna, InstructBLIP.

They are pickles. They are read with `weights_only=True`, which makes tensors and plain containers and nothing else.
Sizes are those of the tensors; heads are 64 wide, as in every BERT that LAVIS starts from.
"""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from torch import Tensor

from isthmus.checkpoints.keymap import HEAD_BIAS, TEMPERATURE, KeyTable, check_keys, lavis, to_bridge
from isthmus.errors import CheckpointError
from isthmus.records import BridgeFile, BridgeSizes

PROJECTIONS = ("opt_proj", "t5_proj", "llm_proj")
HEAD_WIDTH, PATCH_NORM_EPS = 64, 1e-5
_LAYERS, _WORDS = "Qformer.bert.encoder.layer.", "Qformer.bert.embeddings.word_embeddings.weight"


def read_lavis(path: Path) -> BridgeFile:
    """Read the bridge of a `.pth` file, in fp32; its provenance says no more than the layout.

    What a layout lacks is absent: heads and text half in a stage-2 file. A fine-tuned image encoder in the file is
    refused, as every key outside of the table is: raises `CheckpointError` naming them, or the file where it is
    damaged or holds more than tensors.
    """
    given = _tensors(path)
    sizes = _sizes(given, path)
    table = _table(given)
    wanted = check_keys(table, sizes, given, path)
    _check_tied(table, wanted, given, path)
    tensors = {ours: to_bridge(ours, given[theirs]) for ours, theirs in wanted.items()}
    if TEMPERATURE in tensors:
        tensors[TEMPERATURE] = tensors[TEMPERATURE].reshape(())
    return BridgeFile(sizes, tensors, {"layout": table.name})


def _tensors(path: Path) -> Mapping[str, Tensor]:
    try:
        if is_zipfile(path) and (damaged := ZipFile(path).testzip()) is not None:
            raise CheckpointError(f"{path} is damaged: the sum of {damaged} in it is another; fetch it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickle protocols above 2, which are read as well
            content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except FileNotFoundError as problem:
        raise CheckpointError(f"there is no file {path}; give a .pth file of LAVIS") from problem
    except pickle.UnpicklingError as problem:
        raise CheckpointError(
            f"{path} holds more than tensors, and what it asks for was not run; give a file of weights alone"
        ) from problem
    except (RuntimeError, OSError, EOFError, ValueError, BadZipFile) as problem:
        raise CheckpointError(f"{path} is damaged or no .pth file; fetch it again") from problem
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} holds no state dict under `model`; give a .pth file of LAVIS")
    for key, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path} is damaged: {key} holds values that are not finite; fetch it again")
    return state


def _table(given: Mapping[str, Tensor]) -> KeyTable:
    return lavis(next((name for name in PROJECTIONS if f"{name}.weight" in given), None))


def _sizes(given: Mapping[str, Tensor], path: Path) -> BridgeSizes:
    """Every size of the bridge in a file, from the shapes of its tensors."""
    layers = {int(key.removeprefix(_LAYERS).split(".")[0]) for key in given if key.startswith(_LAYERS)}
    crossing = sorted(layer for layer in layers if f"{_LAYERS}{layer}.crossattention.self.key.weight" in given)
    projections = [given[f"{name}.weight"] for name in PROJECTIONS if f"{name}.weight" in given]
    try:
        queries, key = given["query_tokens"], given[f"{_LAYERS}0.crossattention.self.key.weight"]
        up = given[f"{_LAYERS}0.intermediate_query.dense.weight"]
    except KeyError as problem:
        raise CheckpointError(f"{path} lacks {problem.args[0]}; give a .pth file of LAVIS' BLIP-2") from problem
    text = _WORDS in given
    return BridgeSizes(
        vision_width=key.shape[1],
        width=key.shape[0],
        layers=len(layers),
        heads=max(1, key.shape[0] // HEAD_WIDTH),
        feed_forward_width=up.shape[0],
        queries=queries.shape[1],
        cross_frequency=crossing[1] - crossing[0] if len(crossing) > 1 else max(1, len(layers)),
        vocabulary=given[_WORDS].shape[0] if text else BridgeSizes.vocabulary,
        positions=given["Qformer.bert.embeddings.position_embeddings.weight"].shape[0] if text else 512,
        patch_norm_eps=PATCH_NORM_EPS,
        text=text,
        shared_width=given["vision_proj.weight"].shape[0] if "vision_proj.weight" in given else None,
        language_width=projections[0].shape[0] if projections else None,
        lm_head="Qformer.cls.predictions.bias" in given,
        temperature="temp" in given,
    )


def _check_tied(table: KeyTable, wanted: Mapping[str, str], given: Mapping[str, Tensor], path: Path) -> None:
    """A tensor that LAVIS stores twice must be the same both times: ours has one place for it."""
    for key, ours in table.tied.items():
        if key in given and (ours not in wanted or not torch.equal(given[key], given[wanted[ours]])):
            raise CheckpointError(f"{path} has {key} apart from {wanted.get(ours, HEAD_BIAS)}; here the two are one")

"""What both sides are given: start weights, stored features, captions; made once a run, read by both.

    weights.safetensors    the bridge's tensors by our names
    rows.safetensors       patches (rows P V), ids and mask (rows T)
    about.json             sizes, and each tensor's name on the peer's side

Nothing is downloaded: weights and features are random, captions are random tokens. Their lengths are all 11, as in
the counts, or `mixed`: of 6 to 20 tokens with a mean of 12 and a spread of 2.5, with [CLS] and [SEP], such as short
captions have in BERT's tokens. That shape is made up, not taken from a data set.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.flops import Shape
from isthmus.checkpoints.keymap import KeyTable, from_bridge
from isthmus.models.bridge import Bridge
from isthmus.records import BridgeFile, BridgeSizes

WEIGHTS, ROWS, ABOUT = "weights.safetensors", "rows.safetensors", "about.json"
CLS, SEP = 101, 102
_FIRST_WORD = 103
_MEAN, _SPREAD, _SHORTEST, _LONGEST = 12.0, 2.5, 6, 20
FIXED_LENGTH = 11


@dataclass(frozen=True)
class Scale:
    """How large everything is: `full` is BLIP-2's own size, `tiny` finds errors in the programs."""

    bridge: BridgeSizes
    patches: int


SCALES = {
    "full": Scale(BridgeSizes(vision_width=1408), 257),
    "tiny": Scale(
        BridgeSizes(
            vision_width=64,
            width=128,
            layers=2,
            heads=2,
            feed_forward_width=256,
            queries=8,
            vocabulary=1000,
            shared_width=32,
        ),
        17,
    ),
}


def shape_of(scale: Scale) -> Shape:
    """The same sizes in the letters of the counts."""
    sizes = scale.bridge
    return Shape(
        width=sizes.width,
        feed_forward=sizes.feed_forward_width,
        image_width=sizes.vision_width,
        image_tokens=scale.patches,
        queries=sizes.queries,
        layers=sizes.layers,
        cross_frequency=sizes.cross_frequency,
        vocabulary=sizes.vocabulary,
        shared_width=sizes.shared_width or 0,
    )


def write_weights(folder: Path, sizes: BridgeSizes, table: KeyTable, *, seed: int = 0) -> None:
    """Draw a bridge's weights, and say what the peer calls each."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: _drawn(name, tensor, generator) for name, tensor in Bridge(sizes).state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    about = {"sizes": asdict(sizes), "names": table.keys(sizes)}
    (folder / ABOUT).write_text(json.dumps(about), encoding="utf-8")


def peer_tensors(folder: Path, tensors: Mapping[str, Tensor], table: KeyTable, sizes: BridgeSizes) -> dict[str, Tensor]:
    """The same tensors under the peer's names."""
    return {theirs: from_bridge(ours, tensors[ours]) for ours, theirs in table.keys(sizes).items()}


def write_rows(folder: Path, scale: Scale, rows: int, captions: str, *, seed: int = 1) -> list[int]:
    """Draw features and captions; returns the captions' lengths."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(rows, scale.patches, scale.bridge.vision_width, generator=generator)
    lengths = caption_lengths(rows, captions, generator)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.randint(_FIRST_WORD, scale.bridge.vocabulary - 1, mask.shape, generator=generator) * mask
    ids[:, 0] = CLS
    ids[torch.arange(rows), lengths - 1] = SEP
    save_file({"patches": patches, "ids": ids, "mask": mask}, folder / ROWS)
    return [int(length) for length in lengths]


def caption_lengths(rows: int, captions: str, generator: torch.Generator) -> Tensor:
    """Tokens of each caption with [CLS] and [SEP]; `captions` is `11` or `mixed`."""
    if captions == "mixed":
        drawn = torch.randn(rows, generator=generator) * _SPREAD + _MEAN
        return drawn.round().long().clamp(_SHORTEST, _LONGEST)
    return torch.full((rows,), FIXED_LENGTH)


def with_language(scale: Scale, width: int) -> Scale:
    """The same bridge as stage 2 has it: no text half, no heads, a projection."""
    sizes = replace(scale.bridge, text=False, shared_width=None, language_width=width)
    return replace(scale, bridge=sizes)


def read_file(tensors: Mapping[str, Tensor], sizes: BridgeSizes) -> BridgeFile:
    """Drawn weights as a bridge's file in memory."""
    return BridgeFile(sizes, dict(tensors), {})


def _drawn(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """BERT's own spread, biases and the scales of norms too, so that no place of a weight goes unnoticed."""
    drawn = torch.randn(tensor.shape, generator=generator) * 0.02
    if name == "heads.temperature":
        return torch.tensor(0.07)
    return drawn + 1 if name.endswith("norm.weight") else drawn

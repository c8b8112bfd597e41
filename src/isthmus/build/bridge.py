"""Bridges: fresh from a config with a report of their start, or loaded from a folder."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from isthmus.build.towers import resolve
from isthmus.checkpoints.keymap import TEMPERATURE
from isthmus.config.model import BridgeConfig
from isthmus.errors import CheckpointError, ConfigError, TowerError
from isthmus.models.bridge import Bridge
from isthmus.qformer.initialize import Bert, InitReport, draw_random, from_bert, from_scratch, read_bert
from isthmus.qformer.layer import Dropouts
from isthmus.qformer.tokenizer import QFormerTokenizer
from isthmus.records import BridgeFile, BridgeSizes

BRIDGE = "bridge"


@dataclass(frozen=True)
class BuiltBridge:
    """A bridge with what a run must know of its start: the report, which tensors are new, and the sizes it has.

    `origin` is the sha256 of the weights that it went on from.
    """

    bridge: Bridge
    tokenizer: QFormerTokenizer
    report: list[str]
    fresh: frozenset[str]
    config: BridgeConfig
    origin: str | None = None


def fresh_bridge(config: BridgeConfig, vision_width: int, *, seed: int) -> BuiltBridge:
    """Build a stage-1 bridge from a BERT or from scratch, as the config says."""
    bert = None
    if config.bert is not None:
        bert = read_bert(resolve(config.bert).name, revision=resolve(config.bert).revision)
    tokenizer, sizes = fresh_sizes(config, vision_width, bert)
    bridge = Bridge(sizes, dropouts(config))
    if bert is None:
        report = from_scratch(bridge.qformer, seed=seed)
    else:
        dec_from = tokenizer.cls if config.dec == "cls" else None
        report = from_bert(bridge.qformer, bert, seed=seed, fold_token_type=config.fold_token_type, dec_from=dec_from)
    draw_random(bridge.need_heads(), seed=seed + 1)
    return BuiltBridge(bridge, tokenizer, _with_heads(report, bridge).lines(), _fresh(report, bridge), config)


def fresh_sizes(config: BridgeConfig, vision_width: int, bert: Bert | None) -> tuple[QFormerTokenizer, BridgeSizes]:
    """The tokenizer of a fresh bridge and all its sizes: those of its BERT, or from scratch as the config says."""
    if bert is not None:
        tokenizer = QFormerTokenizer(bert.folder, max_tokens=config.max_tokens)
        sizes = bert.sizes(
            vision_width,
            vocabulary=tokenizer.vocabulary,
            queries=config.queries,
            cross_frequency=config.cross_frequency,
        )
    else:
        assert config.scratch is not None
        tokenizer = QFormerTokenizer(tokenizer_folder(config.scratch.tokenizer), max_tokens=config.max_tokens)
        sizes = scratch_sizes(config, vision_width, tokenizer.vocabulary)
    check_positions(config, sizes)
    return tokenizer, replace(sizes, shared_width=config.shared_width, patch_norm_eps=config.patch_norm_eps)


def check_positions(config: BridgeConfig, sizes: BridgeSizes) -> None:
    """Refuse texts that are longer than the Q-Former has positions for."""
    if config.max_tokens > sizes.positions:
        raise ConfigError(
            f"`bridge.max_tokens` is {config.max_tokens} but the Q-Former has {sizes.positions} positions; lower it"
        )


def _with_heads(report: InitReport, bridge: Bridge) -> InitReport:
    heads = [name for name in bridge.state_dict() if not name.startswith("qformer.")]
    return replace(report, random=[*report.random, *heads])


def _fresh(report: InitReport, bridge: Bridge) -> frozenset[str]:
    """What started random. The temperature starts where it should: at the rate of random tensors it runs away."""
    heads = {name for name in bridge.state_dict() if not name.startswith("qformer.")} - {TEMPERATURE}
    return frozenset({f"qformer.{name}" for name in report.random} | heads)


def load_bridge(file: BridgeFile, dropout: Dropouts | None = None) -> Bridge:
    """Build exactly the bridge that a folder holds; raises `CheckpointError` listing keys that do not fit."""
    bridge = Bridge(file.sizes, dropout)
    bridge.load_state_dict(fitting_state(file))
    return bridge


def fitting_state(file: BridgeFile) -> dict[str, Tensor]:
    """A folder's tensors; raises `CheckpointError` listing those that do not fit its own sizes."""
    with torch.device("meta"):
        wanted = Bridge(file.sizes).state_dict()
    given = file.tensors
    wrong = sorted(set(wanted) ^ set(given)) or [
        f"{name} {tuple(given[name].shape)}" for name in wanted if wanted[name].shape != given[name].shape
    ]
    if wrong:
        raise CheckpointError(f"the saved bridge does not fit its own sizes: {', '.join(wrong[:5])}")
    return given


def bridge_folder(folder: Path) -> Path:
    """The bridge's own folder, given it or the folder of its run."""
    inner = folder / BRIDGE
    return inner if inner.is_dir() else folder


def scratch_sizes(config: BridgeConfig, vision_width: int, vocabulary: int) -> BridgeSizes:
    """The sizes of a bridge that starts from scratch, as the config says."""
    scratch = config.scratch
    assert scratch is not None
    return BridgeSizes(
        vision_width=vision_width,
        width=scratch.width,
        layers=scratch.layers,
        heads=scratch.heads,
        feed_forward_width=scratch.feed_forward_width,
        queries=config.queries,
        cross_frequency=config.cross_frequency,
        vocabulary=vocabulary,
    )


def dropouts(config: BridgeConfig) -> Dropouts:
    """The Q-Former's dropout as configured."""
    return Dropouts(config.dropout.embedding, config.dropout.attention, config.dropout.hidden)


def tokenizer_folder(address: str) -> Path:
    """The folder of a tokenizer; raises `TowerError` where it is not on this machine."""
    place = resolve(address)
    if place.path is None:
        raise TowerError(f"{address}: a tokenizer from the Hub must be fetched first; give folder:PATH")
    return place.path

"""Bridges: fresh from a config, loaded from a folder, or stage 2 from a stage-1 folder, each with a report."""

from dataclasses import dataclass, replace
from pathlib import Path

from isthmus.build.towers import resolve
from isthmus.checkpoints.native import read_bridge
from isthmus.config.model import BridgeConfig
from isthmus.errors import CheckpointError, ConfigError, TowerError
from isthmus.models.bridge import Bridge
from isthmus.qformer.initialize import InitReport, draw_random, from_bert, from_scratch, read_bert
from isthmus.qformer.layer import Dropouts
from isthmus.qformer.tokenizer import QFormerTokenizer
from isthmus.records import BridgeFile, BridgeSizes

BRIDGE = "bridge"
_TEXT_ONLY = ("qformer.text.", "heads.")


@dataclass(frozen=True)
class BuiltBridge:
    """A bridge with what a run must know of its start: the report, and which tensors started random."""

    bridge: Bridge
    tokenizer: QFormerTokenizer
    report: list[str]
    fresh: frozenset[str]


def fresh_bridge(config: BridgeConfig, vision_width: int, *, seed: int) -> BuiltBridge:
    """Build a stage-1 bridge from a BERT or from scratch, as the config says."""
    if config.bert is not None:
        bert = read_bert(resolve(config.bert).name, revision=resolve(config.bert).revision)
        tokenizer = QFormerTokenizer(bert.folder, max_tokens=config.max_tokens)
        sizes = bert.sizes(
            vision_width,
            vocabulary=tokenizer.vocabulary,
            queries=config.queries,
            cross_frequency=config.cross_frequency,
        )
    else:
        bert = None
        assert config.scratch is not None
        tokenizer = QFormerTokenizer(_folder(config.scratch.tokenizer), max_tokens=config.max_tokens)
        sizes = _scratch_sizes(config, vision_width, tokenizer.vocabulary)
    if config.max_tokens > sizes.positions:
        raise ConfigError(
            f"`bridge.max_tokens` is {config.max_tokens} but the Q-Former has {sizes.positions} positions; lower it"
        )
    sizes = replace(sizes, shared_width=config.shared_width, patch_norm_eps=config.patch_norm_eps)
    bridge = Bridge(sizes, _dropouts(config))
    if bert is None:
        report = from_scratch(bridge.qformer, seed=seed)
    else:
        dec_from = tokenizer.cls if config.dec == "cls" else None
        report = from_bert(bridge.qformer, bert, seed=seed, fold_token_type=config.fold_token_type, dec_from=dec_from)
    draw_random(bridge.need_heads(), seed=seed + 1)
    return BuiltBridge(bridge, tokenizer, _with_heads(report, bridge).lines(), _fresh(report, bridge))


def _with_heads(report: InitReport, bridge: Bridge) -> InitReport:
    heads = [name for name in bridge.state_dict() if not name.startswith("qformer.")]
    return replace(report, random=[*report.random, *heads])


def _fresh(report: InitReport, bridge: Bridge) -> frozenset[str]:
    heads = {name for name in bridge.state_dict() if not name.startswith("qformer.")}
    return frozenset({f"qformer.{name}" for name in report.random} | heads)


def load_bridge(file: BridgeFile, dropouts: Dropouts | None = None) -> Bridge:
    """Build exactly the bridge that a folder holds; raises `CheckpointError` listing keys that do not fit."""
    bridge = Bridge(file.sizes, dropouts)
    wanted, given = bridge.state_dict(), file.tensors
    wrong = sorted(set(wanted) ^ set(given)) or [
        f"{name} {tuple(given[name].shape)}" for name in wanted if wanted[name].shape != given[name].shape
    ]
    if wrong:
        raise CheckpointError(f"the saved bridge does not fit its own sizes: {', '.join(wrong[:5])}")
    bridge.load_state_dict(given)
    return bridge


def stage2_bridge(folder: Path, config: BridgeConfig, *, language_width: int) -> BuiltBridge:
    """Take the query path of a stage-1 folder; its text half and heads are left, the projection is new.

    Raises `CheckpointError` when the folder is no stage-1 run.
    """
    file = read_stage1(folder)
    sizes = replace(file.sizes, text=False, shared_width=None, language_width=language_width)
    left = [name for name in file.tensors if name.startswith(_TEXT_ONLY) or ".text_feed_forward." in name]
    taken = {name: tensor for name, tensor in file.tensors.items() if name not in left}
    bridge = Bridge(sizes, _dropouts(config))
    state = bridge.state_dict()
    new = [name for name in state if name not in taken]
    bridge.load_state_dict({**state, **taken})
    lines = [
        f"bridge from {folder}: {len(taken)} tensors taken, {len(new)} new, {len(left)} left",
        *(f"  taken  {name}" for name in taken),
        *(f"  new    {name}" for name in new),
        *(f"  left   {name}" for name in left),
    ]
    return BuiltBridge(
        bridge, QFormerTokenizer(bridge_folder(folder), max_tokens=config.max_tokens), lines, frozenset(new)
    )


def bridge_folder(folder: Path) -> Path:
    """The bridge's own folder, given it or the folder of its run."""
    inner = folder / BRIDGE
    return inner if inner.is_dir() else folder


def read_stage1(folder: Path) -> BridgeFile:
    """Read the folder of a stage-1 bridge (or of the run that holds one); raises `CheckpointError` for any other."""
    file = read_bridge(bridge_folder(folder))
    stage = file.provenance.get("stage")
    if stage != 1:
        raise CheckpointError(
            f"{folder} is the bridge of stage {stage}, stage 2 starts from stage 1; give such a folder"
        )
    return file


def _scratch_sizes(config: BridgeConfig, vision_width: int, vocabulary: int) -> BridgeSizes:
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


def _dropouts(config: BridgeConfig) -> Dropouts:
    return Dropouts(config.dropout.embedding, config.dropout.attention, config.dropout.hidden)


def _folder(address: str) -> Path:
    place = resolve(address)
    if place.path is None:
        raise TowerError(f"{address}: a tokenizer from the Hub must be fetched first; give folder:PATH")
    return place.path

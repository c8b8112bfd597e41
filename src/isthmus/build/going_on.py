"""A bridge that goes on from a model folder: what it takes, what starts anew, what it leaves, and what is refused."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from isthmus.build.bridge import BuiltBridge, bridge_folder, check_positions, dropouts, fitting_state
from isthmus.build.filling import Filled, fill_absent
from isthmus.build.folders import one_bridge
from isthmus.build.workshop import Tower, check_tower
from isthmus.checkpoints.keymap import TEMPERATURE, WORDS
from isthmus.checkpoints.native import WEIGHTS, read_bridge
from isthmus.checkpoints.sealed import MARKER
from isthmus.config.model import BridgeConfig, InitConfig
from isthmus.errors import CheckpointError, ConfigError
from isthmus.models.bridge import Bridge
from isthmus.qformer.tokenizer import QFormerTokenizer
from isthmus.records import BridgeFile, BridgeSizes

PROJECTION = ("projection.weight", "projection.bias")
_SIZES = ("queries", "cross_frequency", "shared_width", "patch_norm_eps")


@dataclass(frozen=True)
class Start:
    """The folder that a bridge goes on from, as it was read."""

    folder: Path
    file: BridgeFile
    init: InitConfig

    @property
    def stage(self) -> object:
        """The stage that it was trained in."""
        return self.file.provenance.get("stage")


def read_start(init: InitConfig, encoder: Tower) -> Start:
    """Read what `init.from` names: the folder of a run or its bridge.

    Raises `CheckpointError` when it is no model folder, or the bridge of another image encoder, `ConfigError` for a
    folder that holds the runs of both stages.
    """
    folder = Path(init.folder).expanduser()
    file = read_bridge(one_bridge(folder))
    check_tower(file, "encoder", encoder)
    return Start(folder, file, init)


def stage1_from(start: Start, config: BridgeConfig, *, seed: int) -> BuiltBridge:
    """Go on in stage 1: everything is taken but a projection; what weights of others lack is filled as `init` says.

    Raises `CheckpointError` where a part is absent and not filled, `ConfigError` for a contradicting size.
    """
    sizes = start.file.sizes
    if not sizes.text or sizes.shared_width is None:
        absent, it = ("heads", "them") if sizes.text else ("text half", "it")
        raise CheckpointError(
            f"{start.folder} is a bridge of stage {start.stage}, which leaves the {absent} behind, and stage 1 trains "
            f"{it}; give the folder of a stage-1 run"
        )
    words = fitting_state(start.file)[WORDS]
    filled = fill_absent(sizes, words, start.init, _tokenizer(start, config), seed=seed)
    return _take(start, config, replace(filled.sizes, language_width=None), filled=filled)


def stage2_from(start: Start, config: BridgeConfig, llm: Tower, *, language_width: int) -> BuiltBridge:
    """Go on in stage 2: the query path is taken, and the projection where it leads into the same language model.

    With `config.instruct` the text half is taken too, all but the LM head.
    Raises `ConfigError` for a contradicting size, `CheckpointError` where the text half is needed and absent.
    """
    if config.instruct and not start.file.sizes.text:
        raise CheckpointError(
            f"{start.folder} is a bridge of stage {start.stage} that left the text half behind, and `bridge.instruct` "
            "reads questions by it; give the folder of a stage-1 run, or of one that was trained with bridge.instruct"
        )
    sizes = replace(
        start.file.sizes, text=config.instruct, lm_head=False, shared_width=None, language_width=language_width
    )
    before = start.file.provenance["towers"].get("llm")
    if before is None or start.file.sizes.language_width is None:
        return _take(start, config, sizes, anew=PROJECTION)
    if before["fingerprint"] == llm.fingerprint and start.file.sizes.language_width == language_width:
        return _take(start, config, sizes)
    why = f"; the projection starts anew, for it led into another language model: {before['address']}"
    return _take(start, config, sizes, anew=PROJECTION, why=why)


def _take(
    start: Start,
    config: BridgeConfig,
    sizes: BridgeSizes,
    *,
    anew: tuple[str, ...] = (),
    why: str = "",
    filled: Filled | None = None,
) -> BuiltBridge:
    config = _settled(start, config)
    check_positions(config, sizes)
    bridge, given = Bridge(sizes, dropouts(config)), fitting_state(start.file)
    state, fills = bridge.state_dict(), {} if filled is None else filled.tensors
    elsewhere = {*anew, *fills}
    taken = {name: tensor for name, tensor in given.items() if name in state and name not in elsewhere}
    new, left = [name for name in state if name not in taken], [name for name in given if name not in {*taken, *fills}]
    if absent := sorted(set(new) - elsewhere):
        raise CheckpointError(f"{start.folder} lacks parts that this stage trains: {', '.join(absent[:5])}")
    bridge.load_state_dict({**state, **fills, **taken})
    if bridge.projection is not None and bridge.qformer.text is not None:
        # `fuse` ends with the queries: nothing reads the last words, and DDP would wait for their gradients
        bridge.qformer.layers[-1].text_feed_forward.requires_grad_(False)
    counts = f"{len(taken)} tensors taken, {len(new)} new, {len(left)} left"
    report = [
        f"bridge from {start.folder} (stage {start.stage}): {counts}{why}",
        *(f"  taken  {name}" for name in taken),
        *(f"  new    {name}" for name in new),
        *(f"  left   {name}" for name in left),
        *(f"  filled {origin}" for origin in ([] if filled is None else filled.origins)),
    ]
    fresh = frozenset(new) - {WORDS, TEMPERATURE}  # a row more does not make words new; temperatures start right
    return BuiltBridge(bridge, _tokenizer(start, config), report, fresh, config, weights_sum(start.folder))


def _tokenizer(start: Start, config: BridgeConfig) -> QFormerTokenizer:
    return QFormerTokenizer(bridge_folder(start.folder), max_tokens=config.max_tokens)


def weights_sum(folder: Path) -> str | None:
    """The sha256 that a model folder's weights were saved with; None where there is none."""
    try:
        return str(json.loads((bridge_folder(folder) / MARKER).read_text(encoding="utf-8"))[WEIGHTS])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _settled(start: Start, config: BridgeConfig) -> BridgeConfig:
    """The config with the folder's own sizes; one that was given and is another is refused."""
    own = {name: getattr(start.file.sizes, name) for name in _SIZES}
    own = {name: value for name, value in own.items() if value is not None}
    for name, value in own.items():
        given = getattr(config, name)
        if name in config.model_fields_set and given != value:
            raise ConfigError(
                f"`bridge.{name}` is {given}, but the bridge in {start.folder} was made with {value}, and its sizes "
                "stay; leave the key out"
            )
    return config.model_copy(update=own)

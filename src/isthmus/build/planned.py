"""Config → encoder and stage without their weights: the very modules of a run, on `meta`, for their sizes."""

from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoConfig

from isthmus.build.bridge import BuiltBridge, dropouts, fresh_sizes
from isthmus.build.filling import RANDOM
from isthmus.build.folders import one_bridge
from isthmus.build.going_on import Start, stage1_from, stage2_from
from isthmus.build.precision import Compute
from isthmus.build.stages import make_prompt
from isthmus.build.towers import build_encoder, build_llm, resolve
from isthmus.build.workshop import Tower
from isthmus.checkpoints.native import outline_bridge
from isthmus.config.model import BridgeConfig, InitConfig
from isthmus.config.run import RunConfig
from isthmus.errors import TowerError
from isthmus.models.bridge import Bridge
from isthmus.models.stage1 import Stage1, Stage1Options
from isthmus.models.stage2 import Stage2
from isthmus.qformer.initialize import Bert
from isthmus.records import BridgeFile, Source
from isthmus.vision.encoder import Encoder

_DESCRIPTION = ["config.json", "tokenizer*", "vocab.txt", "special_tokens_map.json"]


@dataclass(frozen=True)
class Planned:
    """Encoder and stage as a run would build them, with no number in them."""

    encoder: Encoder
    stage: Stage1 | Stage2
    built: BuiltBridge


def plan_stage(config: RunConfig, source: Source, compute: Compute, *, before: Planned | None = None) -> Planned:
    """Build a run's modules without their weights; `before` is the stage that `init.from` will hold once it is trained.

    Whether the bridge in `init.from` knows the same towers is not looked at. Raises what building the run would raise
    otherwise.
    """
    prompt = None if config.llm is None else make_prompt(config.llm, source, seed=config.seed)
    with torch.device("meta"):
        encoder = build_encoder(config.encoder, compute, empty=True)
        start = None if config.init is None else _start(config.init, before)
        if config.llm is not None and prompt is not None and start is not None:
            llm = build_llm(config.llm, prompt, compute, empty=True)
            unknown = Tower(llm, llm.address, "", "")  # no weights to know it by: the projection starts anew
            built = stage2_from(start, config.bridge, unknown, language_width=llm.width)
            return Planned(encoder, Stage2(built.bridge, llm), built)
        built = (
            _fresh(config.bridge, encoder.width)
            if start is None
            else stage1_from(start, config.bridge, seed=config.seed)
        )
    options = Stage1Options(**config.objectives.model_dump())
    return Planned(encoder, Stage1(built.bridge, dec=built.tokenizer.dec, options=options), built)


def _start(init: InitConfig, before: Planned | None) -> Start:
    """What a run goes on from: the folder, or the bridge that will be in it."""
    if init.lm_head is not None:
        init = init.model_copy(update={"lm_head": RANDOM})  # of the same size, and nothing is read for it
    folder = Path(init.folder).expanduser()
    if before is None or folder.exists():
        return Start(folder, outline_bridge(one_bridge(folder)), init)
    sizes = before.built.bridge.sizes
    file = BridgeFile(sizes, dict(Bridge(sizes).state_dict()), {"stage": 1, "towers": {}})
    return Start(Path(before.built.tokenizer.inner.name_or_path), file, init)


def _fresh(config: BridgeConfig, vision_width: int) -> BuiltBridge:
    bert = None if config.bert is None else _describe_bert(config.bert)
    tokenizer, sizes = fresh_sizes(config, vision_width, bert)
    return BuiltBridge(Bridge(sizes, dropouts(config)), tokenizer, [], frozenset(), config)


def _describe_bert(address: str) -> Bert:
    """A BERT's configuration and tokenizer; of one on the Hub no weights are fetched."""
    place = resolve(address)
    try:
        config = AutoConfig.from_pretrained(place.name, revision=place.revision)
        folder = place.path or Path(snapshot_download(place.name, revision=place.revision, allow_patterns=_DESCRIPTION))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as problem:
        raise TowerError(f"{address} has no configuration of a BERT; check the name and the connection") from problem
    if config.model_type != "bert":
        raise TowerError(f"{address} is of model type {config.model_type!r}; the Q-Former starts from 'bert' only")
    return Bert(config.to_dict(), {}, folder)

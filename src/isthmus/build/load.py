"""A finished run's folder → its bridge with its towers, ready to be scored."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isthmus.build.bridge import bridge_folder, load_bridge
from isthmus.build.data import open_looks, open_source
from isthmus.build.evaluation import Evaluation
from isthmus.build.towers import build_llm
from isthmus.build.workshop import Workshop, check_tower, make_tower, open_workshop
from isthmus.checkpoints.native import read_bridge
from isthmus.config.run import RunConfig, check, put
from isthmus.errors import ConfigError
from isthmus.features.extract import Progress
from isthmus.language.prompts import Prompt
from isthmus.models.stage1 import Stage1
from isthmus.models.stage2 import Stage2
from isthmus.qformer.tokenizer import QFormerTokenizer
from isthmus.records import BridgeFile

_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}


@dataclass(frozen=True)
class LoadedRun:
    """A run's stage and the scorer of its config's held-out source."""

    stage: Stage1 | Stage2
    evaluation: Evaluation

    def evaluate(self) -> dict[str, Any]:
        """Score the bridge."""
        return self.evaluation.score(self.stage)


def load_run(
    folder: Path, values: Mapping[str, Any], *, workshop: Workshop | None = None, progress: Progress
) -> LoadedRun:
    """Load a run's bridge and towers, and its held-out source as the values by `key.sub` name it.

    Raises `CheckpointError` when a tower is not the one that the bridge was trained with, `ConfigError` when no
    held-out source is named.
    """
    file = read_bridge(bridge_folder(folder))
    recorded = {**file.provenance["config"], "precision": _PRECISIONS[file.provenance["precision"]]}
    config = check(put(recorded, values), str(folder))
    if config.data.evaluation is None:
        raise ConfigError(
            f"{folder} was trained without held-out pictures; name some: data.evaluation.folder=FOLDER "
            "data.evaluation.metadata=FILE"
        )
    source = open_source(config.data.evaluation)
    workshop = workshop or open_workshop(config)
    check_tower(file, "encoder", workshop.tower)
    tokenizer = QFormerTokenizer(bridge_folder(folder), max_tokens=config.bridge.max_tokens)
    stage = _stage(file, config, tokenizer, workshop)
    looks = open_looks(config, workshop.encoder, [source], workshop.compute, progress=progress)
    return LoadedRun(
        stage, Evaluation(source, looks, looks(source, seed=None), tokenizer, workshop.compute, config.seed)
    )


def _stage(file: BridgeFile, config: RunConfig, tokenizer: QFormerTokenizer, workshop: Workshop) -> Stage1 | Stage2:
    bridge = load_bridge(file).to(workshop.compute.device).eval()
    if file.provenance["stage"] == 1:
        return Stage1(bridge, dec=tokenizer.dec)
    assert config.llm is not None
    llm = build_llm(config.llm, Prompt.from_json(file.provenance["prompt"]), workshop.compute)
    check_tower(file, "llm", make_tower(llm))
    return Stage2(bridge, llm)

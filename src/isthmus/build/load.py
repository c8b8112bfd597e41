"""A finished run's folder → its bridge with its towers, ready to be scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isthmus.build.bridge import load_bridge
from isthmus.build.chosen_ranking import ChosenRanking
from isthmus.build.data import open_held_out, open_looks
from isthmus.build.evaluation import Evaluation, longest_trained
from isthmus.build.folders import one_bridge
from isthmus.build.workshop import Workshop, check_tower, open_workshop
from isthmus.checkpoints.native import read_bridge, update_provenance
from isthmus.config.data import SourceConfig
from isthmus.config.run import RunConfig, check, put
from isthmus.errors import AbsentPartError, ConfigError
from isthmus.features.extract import Progress
from isthmus.language.prompts import Prompt
from isthmus.models.ranking import Rule
from isthmus.models.stage1 import Stage1
from isthmus.models.stage2 import Stage2
from isthmus.qformer.tokenizer import QFormerTokenizer
from isthmus.records import BridgeFile
from isthmus.tasks.coco import Metric

_SCORED_BY = ("data", "features", "encoder", "llm.weights", "llm.cache", "device", "precision", "seed")
_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}


@dataclass(frozen=True)
class LoadedRun:
    """A run's stage and the scorer of its config's held-out source; `folder` is the bridge's own."""

    stage: Stage1 | Stage2
    evaluation: Evaluation
    config: RunConfig
    provenance: Mapping[str, Any]
    folder: Path

    def evaluate(self, *, metrics: Sequence[Metric] = ()) -> dict[str, Any]:
        """Score the bridge; `metrics` are those of COCO that captions are scored by too."""
        return self.evaluation.score(self.stage, metrics=metrics)

    def choose_ranking(self, *, metrics: Sequence[Metric] = ()) -> dict[str, Any]:
        """Score the bridge with the weight of re-ranking that is best on these pictures, and store it in the folder.

        Raises `AbsentPartError` for a bridge of stage 2, which has nothing to re-rank with.
        """
        self._need_heads()
        figures = self.evaluation.score(self.stage, choose_on=self.held_out(), metrics=metrics)
        update_provenance(self.folder, {"ranking": figures["ranking"]})
        return figures

    def ranked_by(self, rule: Rule) -> "LoadedRun":
        """Give the same run re-ranked by this rule, which the folder keeps from now on beside the weight.

        Raises `AbsentPartError` for a bridge of stage 2, which has nothing to re-rank with.
        """
        self._need_heads()
        before = self.evaluation.chosen or ChosenRanking()
        chosen = replace(before, ranking=replace(before.ranking, rule=rule))
        update_provenance(self.folder, {"ranking": chosen.as_json()})
        return replace(self, evaluation=replace(self.evaluation, chosen=chosen))

    def captioned_by(self, num_beams: int, max_new_tokens: int | None) -> "LoadedRun":
        """Give the same run with captions searched by beams; None leaves their length as it was trained.

        Raises `ConfigError` for beams in stage 1, whose Q-Former writes without.
        """
        if num_beams > 1 and isinstance(self.stage, Stage1):
            raise ConfigError(f"{self.folder} is of stage 1, whose Q-Former writes without beams: leave num_beams at 1")
        before = self.evaluation.decoding
        longest = before.max_new_tokens if max_new_tokens is None else max_new_tokens
        decoding = replace(before, num_beams=num_beams, max_new_tokens=longest)
        return replace(self, evaluation=replace(self.evaluation, decoding=decoding))

    def _need_heads(self) -> None:
        if isinstance(self.stage, Stage2):
            raise AbsentPartError(
                f"{self.folder} has no ITC and ITM heads, so there is nothing to re-rank with; give a stage-1 run"
            )

    def on(self, source: SourceConfig, *, progress: Progress) -> "LoadedRun":
        """Give the same bridge and towers, as they are loaded, to be scored on another held-out source."""
        config = self.config.model_copy(update={"data": self.config.data.model_copy(update={"evaluation": source})})
        rows, before = open_held_out(config), self.evaluation
        assert rows is not None
        looks = open_looks(config, before.looks.encoder, [rows], before.compute, progress=progress)
        rows = looks.usable(rows, training=False)
        evaluation = replace(before, source=rows, looks=looks, look=looks(rows, seed=None))
        return replace(self, evaluation=evaluation, config=config)

    def held_out(self) -> str:
        """A name of the held-out source: what its config says, where that is no default."""
        if self.config.data.evaluation is None:
            return f"data.held_out={self.config.data.held_out}"
        values = self.config.data.evaluation.model_dump(mode="json", exclude_defaults=True)
        return " ".join(f"{key}={value}" for key, value in values.items())


def load_run(
    folder: Path, values: Mapping[str, Any], *, workshop: Workshop | None = None, progress: Progress
) -> LoadedRun:
    """Load a run's bridge and towers, and its held-out source as the values by `key.sub` name it.

    Raises `CheckpointError` when a tower is not the one that the bridge was trained with, `ConfigError` when no
    held-out source is named, for a key that says nothing about scoring, or for a folder of both stages.
    """
    place = one_bridge(folder)
    file = read_bridge(place)
    if "converted" in file.provenance:
        raise ConfigError(
            f"{folder} was converted from {file.provenance['converted']['from']} and has no run's config to be scored "
            "by; train it on from there (init.from), or use it by caption, match and embed"
        )
    recorded = {**file.provenance["config"], "precision": _PRECISIONS[file.provenance["precision"]]}
    recorded["output"] = str(place.parent)  # the run may have moved
    if any(key.startswith("data.evaluation") for key in values):
        recorded = put(recorded, {"data.held_out": None})
    config = check(put(recorded, values), str(folder))
    _refuse_what_is_trained(values, folder)
    source = open_held_out(config)
    if source is None:
        raise ConfigError(
            f"{folder} was trained without held-out pictures; name some: data.evaluation.folder=FOLDER "
            "data.evaluation.metadata=FILE"
        )
    workshop = workshop or open_workshop(config)
    check_tower(file, "encoder", workshop.tower)
    tokenizer = QFormerTokenizer(place, max_tokens=config.bridge.max_tokens)
    stage = _stage(file, config, tokenizer, workshop)
    looks = open_looks(config, workshop.encoder, [source], workshop.compute, progress=progress)
    source = looks.usable(source, training=False)
    look, chosen = looks(source, seed=None), ChosenRanking.of(file.provenance)
    evaluation = Evaluation(
        source, looks, look, tokenizer, workshop.compute, config.seed, chosen, longest_trained(config)
    )
    return LoadedRun(stage, evaluation, config, file.provenance, place)


def _refuse_what_is_trained(values: Mapping[str, Any], folder: Path) -> None:
    """Raise `ConfigError` for a key that training has settled: it would change nothing, or what is scored."""
    for key in values:
        if not any(key == known or key.startswith(f"{known}.") for known in _SCORED_BY):
            raise ConfigError(
                f"`{key}` cannot be changed to score {folder}: it is as it was trained; an evaluation takes the keys "
                f"{', '.join(_SCORED_BY)}"
            )


def _stage(file: BridgeFile, config: RunConfig, tokenizer: QFormerTokenizer, workshop: Workshop) -> Stage1 | Stage2:
    bridge = load_bridge(file).to(workshop.compute.device).eval()
    if file.provenance["stage"] == 1:
        return Stage1(bridge, dec=tokenizer.dec)
    assert config.llm is not None
    llm, tower = workshop.language_model(config.llm, Prompt.from_json(file.provenance["prompt"]))
    check_tower(file, "llm", tower)
    return Stage2(bridge, llm)

"""A training run from its config: workshop, store, stage, trainer, and the record of what was done."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed

from isthmus import distributed
from isthmus.build.bridge import BRIDGE, BuiltBridge
from isthmus.build.data import Looks, drawn_rows, open_looks, open_sources, training_loader
from isthmus.build.evaluation import Evaluation, longest_trained
from isthmus.build.greeting import resumed
from isthmus.build.keeping import Keeper, holds_checkpoints, open_shelf
from isthmus.build.mirroring import warn_of_sides
from isthmus.build.plan import optimizer_of, plan_of, reread_of
from isthmus.build.precision import Compute
from isthmus.build.processes import join, leave_towers_out, stay_alone
from isthmus.build.resuming import find_checkpoint, refuse_towers
from isthmus.build.stages import build_stage1, build_stage2, start_projection, starts_projection
from isthmus.build.training import LOG, RECORD, Resume, Training
from isthmus.build.workshop import SIGHT, Tower, Workshop, open_workshop
from isthmus.checkpoints.shelf import Found
from isthmus.config.run import RunConfig
from isthmus.data.mixture import Mixture
from isthmus.errors import ConfigError
from isthmus.features.extract import Progress
from isthmus.files import check_place
from isthmus.models.stage1 import Stage1
from isthmus.models.stage2 import Stage2
from isthmus.qformer.attention import TABLE_VERSION
from isthmus.qformer.compiled import compile_verbs
from isthmus.records import Source
from isthmus.train.chunked import Reread
from isthmus.train.loop import Trainer
from isthmus.train.resume import put_back, refuse_other_batch
from isthmus.train.trackers import tracker_options

_FIT_BATCHES = 32
Towers = Mapping[str, Tower]


@distributed.telling()
def build_training(config: RunConfig, *, workshop: Workshop | None = None, progress: Progress) -> Training:
    """Build a run; fills the feature store first, where the config names one (`progress` tells how far).

    Raises a `UserError` of some kind for all that is wrong with the config, the data, the towers or the store.
    """
    _check_output(config)
    accelerator = join(config, **tracker_options(config.train.trackers, Path(config.output)))
    found = find_checkpoint(config)
    sources = open_sources(config)
    warn_of_sides(sources.train, config.features)
    workshop = workshop or open_workshop(config)
    compute = workshop.compute
    set_seed(config.seed)
    stage, built, towers = _stage(config, workshop, sources.train)
    given, config = config.given(), config.model_copy(update={"bridge": built.config})
    looks = open_looks(config, workshop.encoder, sources.both(), compute, progress=progress)
    train = looks.usable(sources.train, training=True)
    held_out = None if sources.evaluation is None else looks.usable(sources.evaluation, training=False)
    look = looks(train, seed=config.seed)
    start = 0 if found is None else found.file.position["step"]
    rows, per_epoch = training_loader(train, look, config, tokenize=built.tokenizer, broken=looks.broken, start=start)
    batches = looks.patches(rows)
    _settle(stage, compute, compiled=config.train.compile)
    if isinstance(stage, Stage2) and starts_projection(built) and found is None:
        with compute.autocast():
            start_projection(stage, config.bridge, islice(batches, _FIT_BATCHES), seed=config.seed)
    provenance = _provenance(config, stage, towers, compute)
    provenance |= {"given": given, "origin": built.origin, "sources": drawn_rows(train, config)}
    keeper = Keeper(config, built, towers, provenance, open_shelf(config))
    again = reread_of(config, look)
    trainer = Trainer(stage, optimizer_of(config, built), accelerator, plan_of(config, per_epoch), reread=again)
    resume = None if found is None else _go_on(found, trainer, keeper)
    return Training(
        config=config,
        trainer=trainer,
        batches=batches,
        stage=stage,
        built=built,
        evaluation=None if held_out is None else _evaluation(held_out, looks, built, compute, config=config),
        keeper=keeper,
        workshop=workshop,
        stored=None if looks.store is None else looks.store.size,
        resume=resume,
    )


def _stage(config: RunConfig, workshop: Workshop, source: Mixture) -> tuple[Stage1 | Stage2, BuiltBridge, Towers]:
    """What is trained, its bridge as it starts, and the frozen models that it is trained between."""
    towers = {"encoder": workshop.tower}
    if config.stage == 1:
        return *build_stage1(config, workshop), towers
    stage, built, towers["llm"] = build_stage2(config, source, workshop)
    return stage, built, towers


def _go_on(found: Found, trainer: Trainer, keeper: Keeper) -> Resume:
    """Put a checkpoint into a run that was just built; raises `UserError` where it is not this run's."""
    refuse_towers(found, keeper.towers)
    position = found.file.position
    rows = keeper.config.train.batch_size * distributed.world_size()
    refuse_other_batch(position, rows=rows, accumulation=trainer.plan.accumulation)
    _refuse_other_precision(found, keeper.provenance["precision"])
    put_back(trainer, found.file, found.folder)
    keeper.go_on(position, found.folder)
    processes = position["processes"]
    told = resumed(trainer, found.folder, trainer.done, processes=processes, passed_over=found.passed_over)
    return Resume(told, position["trackers"])


def _refuse_other_precision(found: Found, precision: str) -> None:
    before = found.file.bridge.provenance["precision"]
    if before != precision:
        raise ConfigError(
            f"{found.folder} was trained in {before}, and this run would go on in {precision}; take "
            "a device that has it"
        )


def dry_trainer(config: RunConfig, stage: Stage1 | Stage2, built: BuiltBridge, reread: Reread) -> Trainer:
    """The trainer of a run whose stage is on its device already, to see what a step takes (`estimate`)."""
    stage.train()
    again = reread if config.train.chunked else None
    return Trainer(stage, optimizer_of(config, built), stay_alone(config), plan_of(config, 1), reread=again)


def _settle(stage: Stage1 | Stage2, compute: Compute, *, compiled: bool) -> None:
    """Put a stage where it is trained, and its verbs through torch.compile where the config says so."""
    stage.to(compute.device)
    leave_towers_out(stage)
    if compiled:
        compile_verbs(stage.bridge.qformer)


def _evaluation(source: Source, looks: Looks, built: BuiltBridge, compute: Compute, *, config: RunConfig) -> Evaluation:
    look, decoding = looks(source, seed=None), longest_trained(config)
    return Evaluation(source, looks, look, built.tokenizer, compute, config.seed, decoding=decoding)


def _check_output(config: RunConfig) -> None:
    """Refuse a place that cannot be written, before anything is read, and the bridge of an earlier run, unless told.

    One that was stopped before its end has a bridge without a record, or none, and goes on from its checkpoints.
    """
    output = Path(config.output)
    ended = (output / RECORD).is_file() or not holds_checkpoints(config)
    if not config.overwrite and config.resume is None and (output / BRIDGE).exists() and ended:
        raise ConfigError(
            f"{config.output} holds the bridge of an earlier run; choose another `output`, or say overwrite=true"
        )
    for name in (LOG, RECORD):
        check_place(output / name)


def _provenance(
    config: RunConfig, stage: Stage1 | Stage2, towers: Mapping[str, Tower], compute: Compute
) -> dict[str, Any]:
    """What a folder must say of its making (DESIGN 5.4)."""
    return {
        "stage": config.stage,
        "towers": {
            name: {
                "address": t.address,
                "fingerprint": t.fingerprint,
                **{key: value for key in SIGHT if (value := getattr(t, key)) is not None},
                **_licence(config, name),
            }
            for name, t in towers.items()
        },
        "prompt": stage.llm.prompt.as_json() if isinstance(stage, Stage2) else None,
        "config": config.model_dump(mode="json"),
        "precision": compute.dtype_name,
        "device": str(compute.device),
        "processes": distributed.world_size(),
        "machine": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("isthmus", "torch", "transformers", "timm", "accelerate")},
        "attention_table": TABLE_VERSION,
    }


def _licence(config: RunConfig, name: str) -> dict[str, str]:
    """The licence of a tower's weights, where the config states it."""
    licence = getattr(config, name).licence
    return {} if licence is None else {"licence": licence}

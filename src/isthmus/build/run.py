"""A training run from its config: workshop, store, stage, trainer, and the record of what was done."""

import json
import os
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed

from isthmus import distributed
from isthmus.build.bridge import BRIDGE, BuiltBridge
from isthmus.build.data import Looks, drawn_rows, open_looks, open_sources, training_loader
from isthmus.build.evaluation import Evaluation, longest_trained
from isthmus.build.mirroring import warn_of_sides
from isthmus.build.plan import optimizer_of, plan_of, reread_of
from isthmus.build.precision import Compute, choose_compute
from isthmus.build.stages import build_stage1, build_stage2, start_projection, starts_projection
from isthmus.build.workshop import SIGHT, Tower, Workshop, open_workshop
from isthmus.checkpoints.card import model_card
from isthmus.checkpoints.native import update_provenance, write_bridge
from isthmus.config.run import RunConfig
from isthmus.errors import ConfigError, UserError
from isthmus.features.extract import Progress
from isthmus.files import check_place, write_atomically
from isthmus.fingerprint import module_fingerprint
from isthmus.models.stage1 import Stage1
from isthmus.models.stage2 import Stage2
from isthmus.qformer.attention import TABLE_VERSION
from isthmus.qformer.compiled import compile_verbs
from isthmus.records import Batch, BridgeFile, Source
from isthmus.tasks.figures import in_a_line
from isthmus.train.chunked import Reread
from isthmus.train.loop import Hooks, Trainer
from isthmus.train.tracking import JsonLines, Reporter

LOG, RECORD = "log.jsonl", "run.json"
_FIT_BATCHES = 32


@dataclass(frozen=True)
class Training:
    """A run that is ready to start."""

    config: RunConfig
    trainer: Trainer
    batches: Iterable[Batch]
    stage: Stage1 | Stage2
    built: BuiltBridge
    towers: Mapping[str, Tower]
    evaluation: Evaluation | None
    provenance: Mapping[str, Any]
    workshop: Workshop

    def run(self) -> dict[str, Any]:
        """Train, evaluate and save; returns the run's record, which is also written beside the bridge.

        Raises `UserError` when a loss is not finite, when the disk is full, and if a tower changed, which must never
        happen.
        """
        output, begun = Path(self.config.output), time.monotonic()
        path = output / LOG if distributed.rank() == 0 else Path(os.devnull)
        title, silent = f"stage {self.config.stage}", distributed.rank() > 0
        with JsonLines(path) as log, Reporter(title, self.config.train.steps, silent=silent) as reporter:
            (output / RECORD).unlink(missing_ok=True)  # it will be true again when this run has ended
            log.write({"start": self.built.report[0], **self.provenance})
            reporter.say(f"{self.built.report[0]} (all of them in {output / RECORD})")
            reporter.say(f"computing in {self.provenance['precision']} on {self.provenance['device']}")
            figures = self.trainer.run(self.batches, Hooks(self.evaluate, in_a_line, self.save, log, reporter))
        hashes = {n: {"before": t.state, "after": module_fingerprint(t.module)} for n, t in self.towers.items()}
        record = {
            **self.provenance,
            "figures": figures,
            "seconds": round(time.monotonic() - begun, 1),
            "tower_hashes": hashes,
            "towers_unchanged": {name: both["before"] == both["after"] for name, both in hashes.items()},
            "start": self.built.report,
        }
        if distributed.rank() == 0:
            measured = {name: value for name, value in figures.items() if name != "captions"}
            update_provenance(output / BRIDGE, {"figures": measured})
            _write_record(output / RECORD, record)
        self.trainer.accelerator.wait_for_everyone()  # what comes next may read what the first process wrote
        return record

    def evaluate(self) -> dict[str, Any]:
        """Score the bridge as it is on the held-out source; nothing where there is none."""
        return {} if self.evaluation is None else self.evaluation.score(self.stage)

    def save(self, step: int) -> None:
        """Write the bridge's folder, after proving that the towers are what they were."""
        for name, tower in self.towers.items():
            if not tower.unchanged():
                raise UserError(f"the frozen {name} changed in training, so nothing was saved; please report this")
        if distributed.rank() == 0:
            tensors = {name: tensor.detach().cpu() for name, tensor in self.stage.bridge.state_dict().items()}
            file = BridgeFile(self.stage.bridge.sizes, tensors, {**self.provenance, "step": step})
            card, output = model_card(file.provenance), Path(self.config.output)
            write_bridge(file, output / BRIDGE, save_tokenizer=self.built.tokenizer.save, card=card)


def build_training(config: RunConfig, *, workshop: Workshop | None = None, progress: Progress) -> Training:
    """Build a run; fills the feature store first, where the config names one (`progress` tells how far).

    Raises a `UserError` of some kind for all that is wrong with the config, the data, the towers or the store.
    """
    _check_output(config)
    accelerator = _accelerator(config)
    sources = open_sources(config)
    warn_of_sides(sources.train, config.features)
    workshop = workshop or open_workshop(config)
    compute, towers = workshop.compute, {"encoder": workshop.tower}
    set_seed(config.seed)
    stage: Stage1 | Stage2
    if config.stage == 1:
        stage, built = build_stage1(config, workshop)
    else:
        stage, built, towers["llm"] = build_stage2(config, sources.train, workshop)
    given, config = config.given(), config.model_copy(update={"bridge": built.config})
    looks = open_looks(config, workshop.encoder, sources.both(), compute, progress=progress)
    train = looks.usable(sources.train, training=True)
    held_out = None if sources.evaluation is None else looks.usable(sources.evaluation, training=False)
    look = looks(train, seed=config.seed)
    rows, per_epoch = training_loader(train, look, config, tokenize=built.tokenizer, broken=looks.broken)
    batches = looks.patches(rows)
    _settle(stage, compute, compiled=config.train.compile)
    if isinstance(stage, Stage2) and starts_projection(built):
        with compute.autocast():
            start_projection(stage, config.bridge, islice(batches, _FIT_BATCHES), seed=config.seed)
    return Training(
        config=config,
        trainer=_trainer(config, stage, built, accelerator, per_epoch=per_epoch, reread=reread_of(config, look)),
        batches=batches,
        stage=stage,
        built=built,
        towers=towers,
        evaluation=None if held_out is None else _evaluation(held_out, looks, built, compute, config=config),
        provenance={
            **_provenance(config, stage, towers, compute),
            "given": given,
            "origin": built.origin,
            "sources": drawn_rows(train, config),
        },
        workshop=workshop,
    )


def dry_trainer(config: RunConfig, stage: Stage1 | Stage2, built: BuiltBridge, reread: Reread) -> Trainer:
    """The trainer of a run whose stage is on its device already, to see what a step takes (`estimate`)."""
    accelerator, again = _accelerator(config, moves=False), reread if config.train.chunked else None
    stage.train()
    return _trainer(config, stage, built, accelerator, per_epoch=1, reread=again)


def _trainer(
    config: RunConfig,
    stage: Stage1 | Stage2,
    built: BuiltBridge,
    accelerator: Accelerator,
    *,
    per_epoch: int,
    reread: Reread | None,
) -> Trainer:
    """The trainer of a run with so many micro-batches in an epoch."""
    return Trainer(stage, optimizer_of(config, built), accelerator, plan_of(config, per_epoch), reread=reread)


def _settle(stage: Stage1 | Stage2, compute: Compute, *, compiled: bool) -> None:
    """Put a stage where it is trained, and its verbs through torch.compile where the config says so."""
    stage.to(compute.device)
    if compiled:
        compile_verbs(stage.bridge.qformer)


def _evaluation(source: Source, looks: Looks, built: BuiltBridge, compute: Compute, *, config: RunConfig) -> Evaluation:
    look, decoding = looks(source, seed=None), longest_trained(config)
    return Evaluation(source, looks, look, built.tokenizer, compute, config.seed, decoding=decoding)


def _check_output(config: RunConfig) -> None:
    """Refuse a place that cannot be written, before anything is read, and the bridge of an earlier run, unless told."""
    if not config.overwrite and (Path(config.output) / BRIDGE).exists():
        raise ConfigError(
            f"{config.output} holds the bridge of an earlier run; choose another `output`, or say overwrite=true"
        )
    for name in (LOG, RECORD):
        check_place(Path(config.output) / name)


def _write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a run that has ended; raises `UserError` where the disk is full by then."""
    content = json.dumps(record, indent=2) + "\n"
    try:
        write_atomically(path, lambda scratch: scratch.write_text(content, encoding="utf-8"))
    except OSError as problem:
        raise UserError(
            f"{path} cannot be written ({problem.strerror}); the bridge beside it is whole: free space, and train "
            "again for the record"
        ) from problem


def _accelerator(config: RunConfig, *, moves: bool = True) -> Accelerator:
    """Join the process group, if there is one, and choose precision as the run does."""
    compute = choose_compute(config.device, config.precision)
    on_cpu = compute.device.type == "cpu"
    accelerator = Accelerator(mixed_precision=compute.mixed_precision, cpu=on_cpu, device_placement=moves)
    rows = config.train.batch_size * config.train.accumulation * distributed.world_size()
    if config.stage == 1 and rows == 1:
        raise ConfigError(
            "a stage-1 global batch of 1 has no negatives for ITC and ITM; raise `train.batch_size` to 2 or more"
        )
    return accelerator


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

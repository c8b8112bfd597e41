"""The guided first run, phase by phase: pictures, features, stage 1, stage 2, scores, report.

A phase whose result is there, for the same work, is not done again.
"""

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isthmus.build.bridge import BRIDGE
from isthmus.build.data import open_looks, open_source
from isthmus.build.going_on import weights_sum
from isthmus.build.keeping import holds_checkpoints
from isthmus.build.precision import Precision
from isthmus.build.run import build_training
from isthmus.build.training import RECORD
from isthmus.build.workshop import Workshop, open_workshop
from isthmus.config.run import LABELS, RunConfig, check, put, read_yaml
from isthmus.config.stages import STAGES
from isthmus.config.train import BOOKKEEPING
from isthmus.quickstart.artists import ARTISTS
from isthmus.quickstart.draw import SIZE
from isthmus.quickstart.notes import read_notes
from isthmus.quickstart.phases import PHASES, Phases, phase_key
from isthmus.quickstart.pictures import prepare_pictures
from isthmus.quickstart.plan import PLAN, StepPlan, gemm_rate, measure_step, read_plan
from isthmus.quickstart.work import Work
from isthmus.train.tracking import StoreProgress

Say = Callable[[str], None]
_RECIPES = Path(__file__).parent
_RESULTS = (*STAGES.values(), "report.json", "report.html", PLAN)


@dataclass(frozen=True)
class Order:
    """What a quickstart is asked to do."""

    folder: Path
    work: Work
    seed: int
    development: bool
    precision: Precision = "auto"

    @property
    def asked(self) -> dict[str, object]:
        """What results depend on beside the work: with another of these they are another run's."""
        precision = {} if self.precision == "auto" else {"precision": self.precision}
        return {"seed": self.seed, "development": self.development, **precision}

    @property
    def features(self) -> str:
        """The folder of the feature store, which holds one number of views in one precision."""
        views = ["one-view"] if self.work.views == 1 else []
        return "-".join(["features", *views, *([] if self.precision == "auto" else [self.precision])])

    @property
    def training_rows(self) -> str:
        """The metadata file that is trained on: the development artist joins reported runs only."""
        return "train-dev.jsonl" if self.development else "train.jsonl"

    @property
    def held_out(self) -> dict[str, str]:
        """The sets that are scored: metadata files by what they are."""
        if self.development:
            return {"development artist": "development.jsonl"}
        return {"unseen artist": "unseen-artist.jsonl", "unseen names": "unseen-names.jsonl"}


@dataclass
class Quickstart:
    """One guided run and what it has found so far."""

    order: Order
    say: Say
    records: dict[int, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.phases = Phases(self.order.folder)

    def run(self, draw_progress: Callable[[str, int, int], None]) -> Workshop:
        """Do every phase up to the two trained bridges; returns the workshop, for scoring."""
        if (kept := keep_earlier(self.order)) is not None:
            self.say(f"the earlier run in {self.order.folder} was for other work; it is kept in {kept}")
            self.phases = Phases(self.order.folder)
        plan = StepPlan(self.order.folder, self.order.work, self.order.asked)
        with plan.counting():
            workshop = self._prepare(draw_progress)
        for stage in (1, 2):
            self._train(stage, plan, workshop)
        return workshop

    def _prepare(self, draw_progress: Callable[[str, int, int], None]) -> Workshop:
        """Pictures and features; returns the workshop that made these."""
        with self.phases.run("pictures", pictures_key()):
            prepare_pictures(self.order.folder, progress=draw_progress)
        workshop = open_workshop(self.config(1, steps=1))
        rate = gemm_rate(workshop.compute)
        self.say(f"precision {workshop.compute.dtype_name} on {workshop.compute.device}, {rate:.0f} GFLOP/s")
        with self.phases.run("features", self._features_key(workshop)), StoreProgress() as progress:
            self._fill_store(workshop, progress)
        return workshop

    def config(self, stage: int, *, steps: int, folder: Path | None = None) -> RunConfig:
        """The stage's recipe, for this seed and number of steps, in the order's folder or in another."""
        folder = folder or self.order.folder
        values: dict[str, object] = {
            "output": str(folder / STAGES[stage]),
            "seed": self.order.seed,
            "precision": self.order.precision,
            "data.train.folder": str(folder / "pictures"),
            "data.train.metadata": self.order.training_rows,
            "features.folder": str(folder / self.order.features),
            "features.views": self.order.work.views,
            "train.steps": steps,
        }
        if stage == 2:
            values |= {"init.from": str(folder / STAGES[1] / BRIDGE), "llm.cache": str(folder / "towers")}
        recipe = _RECIPES / f"stage{stage}.yaml"
        return check(put(read_yaml(recipe), values), str(recipe))

    def _fill_store(self, workshop: Workshop, progress: StoreProgress) -> None:
        """Encode every picture that will be trained on or scored."""
        config = self.config(1, steps=1)
        rows = [self.order.training_rows, *self.order.held_out.values()]
        sources = [open_source(config.data.sources[0].model_copy(update={"metadata": name})) for name in rows]
        open_looks(config, workshop.encoder, sources, workshop.compute, progress=progress)

    def bridge(self, stage: int) -> Path:
        """Where a stage's bridge is kept."""
        return self.order.folder / STAGES[stage] / BRIDGE

    def _train(self, stage: int, plan: StepPlan, workshop: Workshop) -> None:
        steps = plan.known(stage)
        if steps is None:
            trial = build_training(start_anew(self.config(stage, steps=100)), workshop=workshop, progress=_silent)
            trained = self.phases.seconds["stage 1"] if stage == 2 else 0.0
            steps = plan.decide(stage, measure_step(trial), trained=trained)
            del trial
        config = self.config(stage, steps=steps)
        name, key = f"stage {stage}", self._stage_key(stage, steps)
        record = self._record(stage) if self.phases.done(name, key) else None
        if record is None:
            if not (self.phases.known(name, key) and holds_checkpoints(config)):
                config = start_anew(config)  # what is there is of other work
            with self.phases.run(name, key):
                record = build_training(config, workshop=workshop, progress=_silent).run()
        else:
            self.say(f"stage {stage}: {steps} steps are done already")
        self.records[stage] = record

    def _features_key(self, workshop: Workshop) -> str:
        features = self.config(1, steps=1, folder=Path()).features.model_dump()
        rows = [self.order.training_rows, *self.order.held_out.values()]
        content = {"features": features, "rows": rows, "precision": workshop.compute.dtype_name}
        return phase_key("features", {**content, "encoder": workshop.tower.fingerprint, "pictures": pictures_key()})

    def _stage_key(self, stage: int, steps: int) -> str:
        """What a stage's bridge depends on: what was asked for, the config, and of stage 2 the bridge below it.

        Not where the folder lies: a quickstart that moved is still done. And of the bridge below only its weights:
        what is written into its folder later, such as its ranking, changes nothing in stage 2. Nor do labels.
        """
        config = self.config(stage, steps=steps, folder=Path())
        content: dict[str, Any] = {"asked": self.order.asked, "work": self.order.work.describe()}
        if stage == 2:
            content["stage 1"] = weights_sum(self.bridge(1))
        content["config"] = config.model_dump(mode="json", exclude={**LABELS, "train": BOOKKEEPING})
        return phase_key(f"stage {stage}", content)

    def _record(self, stage: int) -> dict[str, Any] | None:
        """The record of a finished stage, where it and its bridge can be read."""
        record = read_notes(self.order.folder / STAGES[stage] / RECORD)
        return record if self.bridge(stage).is_dir() else None


def pictures_key() -> str:
    """What the drawings depend on: the icon sets' versions and the size."""
    return phase_key("pictures", {"size": SIZE, "versions": {a.package: a.version for a in ARTISTS}})


def keep_earlier(order: Order) -> Path | None:
    """Move what an earlier run for other work left in the folder aside; pictures and features are shared.

    Drawings of other icon sets, or made otherwise, are moved too: what is there would be taken for drawn.
    """
    plan, asked = read_plan(order.folder), {"work": order.work.describe(), **order.asked}
    other_pictures = not Phases(order.folder).known("pictures", pictures_key())
    found = [order.folder / name for name in _RESULTS if (order.folder / name).exists()]
    if not other_pictures and (plan is None or plan["asked"] == asked):
        return None
    if other_pictures:
        found.append(order.folder / "pictures")
    if not found:
        return None
    number = next(n for n in itertools.count(1) if not (order.folder / f"earlier-{n}").exists())
    kept = order.folder / f"earlier-{number}"
    kept.mkdir()
    for path in found:
        path.rename(kept / path.name)
    if (order.folder / PHASES).exists():
        shutil.copy(order.folder / PHASES, kept / PHASES)
        Phases(order.folder).forget("pictures" if other_pictures else "stage 1")
    return kept


def start_anew(config: RunConfig) -> RunConfig:
    """The same config, told to go on from nothing that is there, and to train over whatever is."""
    return config.model_copy(update={"overwrite": True})


def _silent(_done: int, _total: int) -> None:
    """The store is full: the phase before filled it."""

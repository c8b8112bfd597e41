"""The guided first run, phase by phase: pictures, features, stage 1, stage 2, scores, report.

A phase whose result is there, for the same work, is not done again.
"""

import itertools
import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isthmus.build.bridge import BRIDGE
from isthmus.build.data import open_looks, open_source
from isthmus.build.run import RECORD, build_training
from isthmus.build.workshop import Workshop, open_workshop
from isthmus.config.run import RunConfig, check, put, read_yaml
from isthmus.errors import ConfigError
from isthmus.quickstart.pictures import prepare_pictures
from isthmus.quickstart.plan import PLAN, StepPlan, Work, gemm_rate, measure_step, read_plan
from isthmus.train.tracking import StoreProgress

Say = Callable[[str], None]
_RECIPES = Path(__file__).parent
_RESULTS = ("stage1", "stage2", "report.json", "retrieval.png", PLAN)


@dataclass(frozen=True)
class Order:
    """What a quickstart is asked to do."""

    folder: Path
    work: Work
    seed: int
    development: bool

    @property
    def asked(self) -> dict[str, object]:
        """What results depend on beside the work: with another of these they are another run's."""
        return {"seed": self.seed, "development": self.development}

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
    seconds: dict[str, float] = field(default_factory=dict)
    records: dict[int, dict[str, Any]] = field(default_factory=dict)

    def run(self, draw_progress: Callable[[str, int, int], None]) -> Workshop:
        """Do every phase up to the two trained bridges; returns the workshop, for scoring."""
        if (kept := keep_earlier(self.order)) is not None:
            self.say(f"the earlier run in {self.order.folder} was for other work; it is kept in {kept}")
        plan = StepPlan(self.order.folder, self.order.work, self.order.asked)
        with self._timed("pictures"):
            prepare_pictures(self.order.folder, progress=draw_progress)
        workshop = open_workshop(self.config(1, steps=1))
        rate = gemm_rate(workshop.compute)
        self.say(f"precision {workshop.compute.dtype_name} on {workshop.compute.device}, {rate:.0f} GFLOP/s")
        with self._timed("features"), StoreProgress() as progress:
            self._fill_store(workshop, progress)
        for stage in (1, 2):
            self._train(stage, plan, workshop)
        return workshop

    def config(self, stage: int, *, steps: int) -> RunConfig:
        """The stage's recipe, for this folder, seed and number of steps."""
        folder = self.order.folder
        values: dict[str, object] = {
            "output": str(folder / f"stage{stage}"),
            "seed": self.order.seed,
            "data.train.folder": str(folder / "pictures"),
            "data.train.metadata": self.order.training_rows,
            "features.folder": str(folder / "features"),
            "train.steps": steps,
        }
        if stage == 2:
            values |= {"stage1": str(self.bridge(1)), "llm.cache": str(folder / "towers")}
        recipe = _RECIPES / f"stage{stage}.yaml"
        return check(put(read_yaml(recipe), values), str(recipe))

    def _fill_store(self, workshop: Workshop, progress: StoreProgress) -> None:
        """Encode every picture that will be trained on or scored."""
        config = self.config(1, steps=1)
        rows = [self.order.training_rows, *self.order.held_out.values()]
        sources = [open_source(config.data.train.model_copy(update={"metadata": name})) for name in rows]
        open_looks(config, workshop.encoder, sources, workshop.compute, progress=progress)

    def bridge(self, stage: int) -> Path:
        """Where a stage's bridge is kept."""
        return self.order.folder / f"stage{stage}" / BRIDGE

    def _train(self, stage: int, plan: StepPlan, workshop: Workshop) -> None:
        steps = plan.known(stage)
        if steps is None:
            trial = build_training(self.config(stage, steps=100), workshop=workshop, progress=_silent)
            trained = sum(record["seconds"] for record in self.records.values())
            steps = plan.decide(stage, measure_step(trial), trained=trained)
            del trial
        config = self.config(stage, steps=steps)
        record = self._finished(stage, config)
        if record is None:
            training = build_training(replace_bridge(config), workshop=workshop, progress=_silent)
            record = training.run()
        else:
            self.say(f"stage {stage}: {steps} steps are done already")
        self.records[stage] = record
        self.seconds[f"stage {stage}"] = record["seconds"]

    def _finished(self, stage: int, config: RunConfig) -> dict[str, Any] | None:
        """The record of a stage that ended with the same config, on top of the same stage 1."""
        path = self.order.folder / f"stage{stage}" / RECORD
        try:
            record: dict[str, Any] = json.loads(path.read_text())
            same = replace_bridge(check(record["config"], str(path))) == replace_bridge(config)
        except (OSError, ValueError, KeyError, ConfigError):
            return None
        stale = stage == 2 and path.stat().st_mtime < (self.order.folder / "stage1" / RECORD).stat().st_mtime
        return record if same and not stale and self.bridge(stage).is_dir() else None

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[phase] = round(time.monotonic() - begun, 1)


def keep_earlier(order: Order) -> Path | None:
    """Move what an earlier run for other work left in the folder aside; pictures and features are shared."""
    plan = read_plan(order.folder)
    asked = {"work": order.work.describe(), **order.asked}
    found = [order.folder / name for name in _RESULTS if (order.folder / name).exists()]
    if plan is None or plan["asked"] == asked or not found:
        return None
    number = next(n for n in itertools.count(1) if not (order.folder / f"earlier-{n}").exists())
    kept = order.folder / f"earlier-{number}"
    kept.mkdir()
    for path in found:
        path.rename(kept / path.name)
    return kept


def replace_bridge(config: RunConfig) -> RunConfig:
    """The same config, told to train over a bridge that is no longer wanted."""
    return config.model_copy(update={"overwrite": True})


def _silent(_done: int, _total: int) -> None:
    """The store is full: the phase before filled it."""


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

"""The guided first run, phase by phase: pictures, features, stage 1, stage 2, scores, report.

A phase whose result is there, for the same work, is not done again.
"""

import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isthmus.build.bridge import BRIDGE
from isthmus.build.run import RECORD, build_training
from isthmus.build.workshop import Workshop, open_workshop
from isthmus.config.run import RunConfig, load_config
from isthmus.quickstart.pictures import prepare_pictures
from isthmus.quickstart.plan import StepPlan, Work, gemm_rate, measure_step
from isthmus.train.tracking import StoreProgress

Say = Callable[[str], None]
_RECIPES = Path(__file__).parent


@dataclass(frozen=True)
class Order:
    """What a quickstart is asked to do."""

    folder: Path
    work: Work
    seed: int
    development: bool

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
        key: dict[str, object] = {"seed": self.order.seed, "development": self.order.development}
        plan = StepPlan(self.order.folder, self.order.work, key)
        with self._timed("pictures"):
            prepare_pictures(self.order.folder, progress=draw_progress)
        workshop = open_workshop(self.config(1, steps=1))
        rate = gemm_rate(workshop.compute)
        self.say(f"precision {workshop.compute.dtype_name} on {workshop.compute.device}, {rate:.0f} GFLOP/s")
        for stage in (1, 2):
            self._train(stage, plan, workshop)
        return workshop

    def config(self, stage: int, *, steps: int) -> RunConfig:
        """The stage's recipe, for this folder, seed and number of steps."""
        folder = self.order.folder
        overrides = [
            f"output={folder / f'stage{stage}'}",
            f"seed={self.order.seed}",
            f"data.train.folder={folder / 'pictures'}",
            f"data.train.metadata={self.order.training_rows}",
            f"features.folder={folder / 'features'}",
            f"train.steps={steps}",
        ]
        if stage == 2:
            overrides += [f"stage1={self.bridge(1)}", f"llm.cache={folder / 'towers'}"]
        return load_config(_RECIPES / f"stage{stage}.yaml", overrides)

    def bridge(self, stage: int) -> Path:
        """Where a stage's bridge is kept."""
        return self.order.folder / f"stage{stage}" / BRIDGE

    def _train(self, stage: int, plan: StepPlan, workshop: Workshop) -> None:
        steps = plan.known(stage)
        if steps is None:
            with StoreProgress() as progress:
                trial = build_training(self.config(stage, steps=100), workshop=workshop, progress=progress)
            steps = plan.decide(stage, measure_step(trial))
            del trial
        config = self.config(stage, steps=steps)
        record = self._finished(stage, config)
        if record is None:
            with self._timed(f"stage {stage}"):
                with StoreProgress() as progress:
                    training = build_training(config, workshop=workshop, progress=progress)
                record = training.run()
        else:
            self.say(f"stage {stage}: {steps} steps are done already")
            self.seconds[f"stage {stage}"] = record["seconds"]
        self.records[stage] = record

    def _finished(self, stage: int, config: RunConfig) -> dict[str, Any] | None:
        """The record of a stage that ended with the same config, on top of the same stage 1."""
        path = self.order.folder / f"stage{stage}" / RECORD
        if not path.is_file() or not self.bridge(stage).is_dir():
            return None
        record: dict[str, Any] = json.loads(path.read_text())
        stale = stage == 2 and path.stat().st_mtime < (self.order.folder / "stage1" / RECORD).stat().st_mtime
        return record if record["config"] == config.model_dump(mode="json") and not stale else None

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[phase] = round(time.monotonic() - begun, 1)


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

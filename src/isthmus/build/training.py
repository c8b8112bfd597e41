"""A training run that is ready to start: its loop, what it writes, and the record of what was done."""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isthmus import distributed
from isthmus.build.bridge import BRIDGE, BuiltBridge
from isthmus.build.evaluation import Evaluation
from isthmus.build.greeting import Greeting, Resumed, Saving, greeting
from isthmus.build.keeping import OVERWRITTEN, Keeper
from isthmus.build.workshop import Tower, Workshop
from isthmus.checkpoints.native import update_provenance
from isthmus.config.run import RunConfig
from isthmus.errors import UserError
from isthmus.files import write_atomically
from isthmus.fingerprint import module_fingerprint
from isthmus.models.stage1 import Stage1
from isthmus.models.stage2 import Stage2
from isthmus.records import Batches
from isthmus.tasks.figures import in_a_line
from isthmus.train.hooks import Hooks
from isthmus.train.loop import Trainer
from isthmus.train.stopping import Stopped, Stopping
from isthmus.train.tracker_kinds import About
from isthmus.train.trackers import Before, Trackers, open_trackers
from isthmus.train.tracking import JsonLines, Reporter, last_run

LOG, RECORD = "log.jsonl", "run.json"


@dataclass(frozen=True)
class Resume:
    """What a run goes on from, as it is told, and the state of its trackers then."""

    told: Resumed
    trackers: Mapping[str, Any]


@dataclass(frozen=True)
class Training:
    """A run that is ready to start, or to go on; `stored` are the bytes of its feature store."""

    config: RunConfig
    trainer: Trainer
    batches: Batches
    stage: Stage1 | Stage2
    built: BuiltBridge
    evaluation: Evaluation | None
    keeper: Keeper
    workshop: Workshop
    stored: int | None = None
    resume: Resume | None = None

    @property
    def towers(self) -> Mapping[str, Tower]:
        """The frozen models that it is trained between."""
        return self.keeper.towers

    @distributed.telling()
    def run(self) -> dict[str, Any]:
        """Train, evaluate and save; returns the run's record, which is also written beside the bridge.

        Raises `UserError` when no gradient is finite, when the disk is full, and if a tower changed, which must never
        happen; `Stopped` where a signal asked it to end, when all that was done is saved.
        """
        output, keeper = Path(self.config.output), self.keeper
        path = output / LOG if distributed.rank() == 0 else Path(os.devnull)
        title, silent = f"stage {self.config.stage}", distributed.rank() > 0
        reporter = Reporter(title, self.config.train.steps, start=self.trainer.done, silent=silent)
        with ExitStack() as stack:
            stack.enter_context(reporter)
            keeper.trackers = stack.enter_context(self._trackers(path, reporter))
            log = stack.enter_context(JsonLines(path, also=keeper.trackers.write))
            stopping = stack.enter_context(Stopping())
            stack.callback(keeper.shelf.wait)
            stack.callback(self.batches.close)
            self._start(log, reporter)
            figures = self._train(Hooks(self.evaluate, in_a_line, self._save, self._scored, log, reporter), stopping)
        record = self._record(figures)
        if distributed.rank() == 0:
            measured = {name: value for name, value in figures.items() if name != "captions"}
            update_provenance(output / BRIDGE, {"figures": measured})
            _write_record(output / RECORD, record)
        self.trainer.accelerator.wait_for_everyone()  # what comes next may read what the first process wrote
        return record

    def _start(self, log: JsonLines, reporter: Reporter) -> None:
        """Say what starts, or goes on from where, and leave nothing of another run behind."""
        output = Path(self.config.output)
        if distributed.rank() == 0:
            (output / RECORD).unlink(missing_ok=True)  # it will be true again when this run has ended
            if self.resume is None:
                shutil.rmtree(output / OVERWRITTEN, ignore_errors=True)
        greeting = self._greeting()
        if self.resume is None:
            log.write({"start": self.built.report[0], "run": greeting.record(), **self.keeper.provenance})
            reporter.say(f"{self.built.report[0]} (all of them in {output / RECORD})")
        else:
            log.write(self.resume.told.record())
            reporter.say(self.resume.told.line())
        reporter.say(greeting.line())

    def _greeting(self) -> Greeting:
        train, folder = self.config.train, str(self.keeper.shelf.folder)
        saving = Saving(folder, train.save_every, train.save_minutes, train.keep, train.best)
        towers, compute = self.keeper.towers, self.workshop.compute
        return greeting(self.config, self.trainer, towers, compute, saving=saving, stored=self.stored)

    def _trackers(self, log: Path, reporter: Reporter) -> Trackers:
        """The trackers of `train.trackers`, going on with their runs where this one does."""
        about = About(self.config.train.tracker_project, Path(self.config.output), self.keeper.provenance["config"])
        before = None
        if self.resume is not None:
            records = last_run(log) if log.is_file() else []
            before = Before(self.resume.trackers, self.trainer.done, records)
        return open_trackers(self.trainer.accelerator, about, before=before, say=reporter.say)

    def _train(self, hooks: Hooks, stopping: Stopping) -> dict[str, Any]:
        try:
            figures = self.trainer.run(self.batches, hooks, stopping)
        except Stopped as stop:
            raise Stopped(stop.number, f"{stop}; {self._where_it_is()}") from None
        self.keeper.save(self.trainer)  # its bridge, where it was stopped between that and the last evaluation
        return figures

    def _where_it_is(self) -> str:
        if self.trainer.done == 0:
            return "nothing was trained yet"
        here = f"what was done is saved in {self.keeper.shelf.folder}"
        return f"{here}, and the same command, without overwrite or resume, goes on from there"

    def evaluate(self) -> dict[str, Any]:
        """Score the bridge as it is on the held-out source; nothing where there is none."""
        return {} if self.evaluation is None else self.evaluation.score(self.stage)

    def _save(self, _step: int) -> None:
        self.keeper.save(self.trainer)

    def _scored(self, _step: int, figures: Mapping[str, Any]) -> None:
        self.keeper.scored(self.trainer, figures)

    def _record(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        towers = self.keeper.towers
        hashes = {n: {"before": t.state, "after": module_fingerprint(t.module)} for n, t in towers.items()}
        return {
            **self.keeper.provenance,
            "figures": figures,
            "seconds": self.keeper.seconds,
            "resumed_after": self.keeper.resumed_after,
            "tower_hashes": hashes,
            "towers_unchanged": {name: both["before"] == both["after"] for name, both in hashes.items()},
            "start": self.built.report,
        }


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

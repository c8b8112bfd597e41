"""What a run says of itself before its first step, and what a resumed one took from where: a line, and a record."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from isthmus import distributed
from isthmus.build.precision import Compute
from isthmus.build.workshop import Tower
from isthmus.config.run import RunConfig
from isthmus.shadow import binary, storage_bytes
from isthmus.train.loop import Trainer


@dataclass(frozen=True)
class Saving:
    """Where checkpoints go, after how many steps or minutes, how many are kept, and the metric of the best one."""

    folder: str
    steps: int | None = None
    minutes: float | None = None
    keep: int | None = None
    best: str | None = None

    def line(self) -> str:
        """The words of it."""
        every = [f"{self.steps:,} steps"] if self.steps else []
        every += [f"{self.minutes:g} min"] if self.minutes else []
        often = f"every {' or '.join(every)}" if every else "at the end"
        kept = [f"the last {self.keep}" if self.keep != 1 else "the last one"] if self.keep else []
        kept += [f"the best by {self.best}"] if self.best else []
        return f"checkpoints {often} in {self.folder}" + (f", {' and '.join(kept)} kept" if kept else "")


@dataclass(frozen=True)
class Greeting:
    """A run before its first step.

    `towers` and `trained` are numbers of parameters. `pairs` are the image-text pairs of an optimizer step over all
    processes and micro-batches; in stage 1 each is held against the others by ITC. `memory` is in bytes, of one
    process: the tensors that stay for the whole run, activations not among them. `stored` are bytes of features.
    """

    stage: int
    device: str
    precision: str
    processes: int
    towers: Mapping[str, int]
    trained: int
    pairs: int
    negatives: int | None
    steps: int
    epochs: float
    memory: Mapping[str, int]
    stored: int | None
    saving: Saving

    def line(self) -> str:
        """All of it for a person, in one line."""
        frozen = " and ".join(f"{name} ({_count(size)})" for name, size in self.towers.items())
        over = "" if self.processes == 1 else f" over {self.processes} processes"
        against = "" if self.negatives is None else f", {self.negatives:,} negatives each in ITC"
        stored = "" if self.stored is None else f", {binary(self.stored)} of features on disk"
        return "; ".join(
            [
                f"stage {self.stage} in {self.precision} on {self.device}: frozen {frozen}, "
                f"trained {_count(self.trained)}",
                f"{self.pairs:,} pairs a step{over}{against}",
                f"{self.steps:,} steps, {self.epochs:.3g} epochs",
                f"{binary(sum(self.memory.values()))} before activations ({', '.join(self.memory)}){stored}",
                self.saving.line(),
            ]
        )

    def record(self) -> dict[str, Any]:
        """The same for the log, as JSON."""
        return asdict(self)


def greeting(
    config: RunConfig,
    trainer: Trainer,
    towers: Mapping[str, Tower],
    compute: Compute,
    *,
    saving: Saving,
    stored: int | None,
) -> Greeting:
    """Collect what there is to say of a run that is ready to start; `stored` are the bytes of its feature store.

    Every parameter that is trained has a gradient and AdamW's two means, all of its own size.
    """
    plan, processes = trainer.plan, distributed.world_size()
    pairs = config.train.batch_size * plan.accumulation * processes
    trained = storage_bytes(trainer.parameters)
    frozen = sum(storage_bytes(map(_own, tower.module.state_dict().values())) for tower in towers.values())
    return Greeting(
        stage=config.stage,
        device=str(compute.device),
        precision=compute.dtype_name,
        processes=processes,
        towers={name: sum(one.numel() for one in tower.module.parameters()) for name, tower in towers.items()},
        trained=sum(one.numel() for one in trainer.parameters),
        pairs=pairs,
        negatives=pairs - 1 if config.stage == 1 else None,
        steps=plan.steps,
        epochs=plan.steps * plan.accumulation / plan.batches_per_epoch,
        memory={"weights": frozen + trained, "gradients": trained, "AdamW": 2 * trained},
        stored=stored,
        saving=saving,
    )


@dataclass(frozen=True)
class Resumed:
    """What a resumed run took: from which folder, at which of how many steps, and where in the data that is.

    `epoch` and `batch` count from 0: the next batch is number `batch` of `batches` in it. `passed_over` has a sentence
    for each newer checkpoint that could not be read. `processes` were those of the checkpoint, and are those of now.
    """

    folder: Path
    step: int
    steps: int
    epoch: int
    batch: int
    batches: int
    processes: tuple[int, int]
    passed_over: Sequence[str] = ()

    def line(self) -> str:
        """All of it for a person: a line, and one more for each checkpoint that was passed over."""
        then, now = self.processes
        taken = f"resumed from {self.folder}: {self.step:,} of {self.steps:,} steps are done"
        taken += f"; epoch {self.epoch + 1} goes on after {self.batch:,} of {self.batches:,} batches"
        if then != now:
            taken += f"; {now} processes, {then} before: the same pictures in the same order, other dropout"
        return "\n".join([taken, *(f"passed over: {sentence}" for sentence in self.passed_over)])

    def record(self) -> dict[str, Any]:
        """The same for the log, as JSON; readers leave out what was logged before it of steps after `step`."""
        then, now = self.processes
        fields = {**asdict(self), "folder": str(self.folder), "processes": {"before": then, "now": now}}
        return {"resume": {**fields, "passed_over": list(self.passed_over)}}


def resumed(trainer: Trainer, folder: Path, step: int, *, processes: int, passed_over: Sequence[str] = ()) -> Resumed:
    """Collect what a resume took: the checkpoint at `step` in `folder`, written by so many processes."""
    plan = trainer.plan
    epoch, batch = divmod(step * plan.accumulation, plan.batches_per_epoch)
    return Resumed(
        folder=folder,
        step=step,
        steps=plan.steps,
        epoch=epoch,
        batch=batch,
        batches=plan.batches_per_epoch,
        processes=(processes, distributed.world_size()),
        passed_over=tuple(passed_over),
    )


def _own(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, which is all of it unless processes share it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _count(number: int) -> str:
    """A number of parameters: `33.1 M`, `2.7 B`."""
    for size, unit in ((10**9, "B"), (10**6, "M")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,}"

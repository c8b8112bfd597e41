"""Steps of the real trainer, as one process or as one of several; spawned processes import only this.

A case is a function of its name and of how many processes there are: each takes its share of the same global batches.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from unittest import mock

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import distributed as group
from torch import nn

import decoders
from bridges import DEC, filled, one_batch, rows_of, tiny_batch, tiny_bridge
from isthmus import distributed
from isthmus.models import stage1
from isthmus.models.stage1 import Stage1, Stage1Options
from isthmus.models.stage2 import Stage2
from isthmus.records import Losses, Term
from isthmus.train.chunked import Reread
from isthmus.train.loop import Trainer
from isthmus.train.optimizer import AdamW, Rates, make_optimizer
from isthmus.train.plan import Plan

ROWS, APART = 2, 100


@dataclass(frozen=True)
class Case:
    """A short run; `shares` says how many rows the ranks hold in every second step, where they are not full.

    `joined`: the micro-batches of a step are one contrastive batch; one process takes them in one pass.
    """

    stage: int = 1
    gather: str = "exact"
    accumulation: int = 1
    per_rank_mean: bool = False
    steps: int = 10
    shares: tuple[int, ...] = ()
    joined: bool = False
    itm_every: int = 1


TWO = {
    "stage 1, exact": Case(),
    "stage 1, detached": Case(gather="detached"),
    "stage 1, ITM on every third row": Case(itm_every=3, steps=4),
    "stage 1, in two passes": Case(accumulation=3, joined=True),
    "stage 1, in two passes, detached": Case(accumulation=2, joined=True, gather="detached", steps=4),
    "stage 2": Case(stage=2),
    "stage 2, accumulated": Case(stage=2, accumulation=3),
    "stage 2, a mean of each rank's": Case(stage=2, accumulation=2, per_rank_mean=True, steps=1),
}
THREE = {
    "stage 1, exact": Case(shares=(2, 1, 0)),
    "stage 1, detached": Case(gather="detached", shares=(2, 1, 0), steps=4),
    "stage 1, ITM on every second row": Case(itm_every=2, shares=(2, 1, 1), steps=4),
    "stage 1, in two passes": Case(accumulation=2, joined=True, shares=(2, 1, 0)),
    "stage 1, in two passes, ITM on every fourth row": Case(
        accumulation=2, joined=True, itm_every=4, shares=(2, 1, 1), steps=4
    ),
    "stage 2": Case(stage=2, accumulation=2, shares=(2, 1, 0)),
}


CASES = {2: TWO, 3: THREE}


def check(rank: int, folder: str) -> None:
    """Be one of three processes and then, unless the last, one of two; leave what came out of every case."""
    torch.set_num_threads(1)
    for world in (3, 2):
        if rank < world:
            with joined(rank, world, Path(folder) / f"meeting of {world}"):
                results = {name: train(case, world) for name, case in CASES[world].items()}
                torch.save({"cases": results, "seeds": seeds()}, Path(folder) / f"{rank} of {world}.pt")
                distributed.wait()


@contextmanager
def joined(rank: int, world: int, meeting: Path) -> Iterator[None]:
    """Within, this process is one of a group over gloo, for torch and for Accelerate."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    group.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=world)
    try:
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        group.destroy_process_group()


def train(case: Case, world: int) -> dict:
    """Losses of every step, the first step's gradients, the drawn negatives, and the parameters at the end."""
    in_two = case.joined and distributed.world_size() > 1
    trainer = trainer_of(case, partial(read_again, case, world) if in_two else None)
    stage, optimizer = trainer.bare, trainer.raw_optimizer
    losses, gradients, negatives, draw = [], [], [], stage1.draw_negatives

    def drawn(*given, **named):
        found = draw(*given, **named)
        negatives.append((distributed.gather(found.index), distributed.gather(found.weight)))
        return found

    optimizer.register_step_pre_hook(lambda *_: gradients.append(gradients_of(stage)))
    with mock.patch.object(stage1, "draw_negatives", drawn):
        for step in range(case.steps):
            trainer.stage.train()
            batches = [share(case, world, step, micro) for micro in range(case.accumulation)]
            trainer.step([one_batch(batches)] if case.joined and not in_two else batches, step)
            losses.append(trainer.meters.read())
    assert trainer.skips.read() == []
    parameters = {name: parameter.detach().clone() for name, parameter in stage.bridge.named_parameters()}
    return {"losses": losses, "gradients": gradients[0], "parameters": parameters, "negatives": negatives}


def trainer_of(case: Case, reread: Reread | None = None) -> Trainer:
    """The trainer of a case, in as many processes as there are."""
    stage = make_stage(case)
    optimizer = make_optimizer(stage.bridge, AdamW(Rates(1e-4, 1e-4, 1e-4), (0.9, 0.98), 0.05), fresh=())
    return Trainer(stage, optimizer, Accelerator(cpu=True), plan_of(case), reread=reread)


def make_stage(case: Case) -> nn.Module:
    if case.stage == 1:
        return Stage1(tiny_bridge(), dec=DEC, options=Stage1Options(gather=case.gather, itm_every=case.itm_every))
    llm = decoders.llm("gpt2")  # Llama's norms are in fp32 whatever the rest, and 1/3 rounds
    return Stage2(tiny_bridge(text=False, shared_width=None, language_width=llm.width), llm)


def gradients_of(stage: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in stage.bridge.named_parameters()}


def plan_of(case: Case) -> Plan:
    return Plan(
        steps=case.steps,
        batches_per_epoch=4,
        accumulation=case.accumulation,
        warmup=2,
        warmup_from=0.5,
        lowest=0.0,
        cosine_by_epoch=False,
        clip=1e9,
        seed=3,
        per_rank_mean=case.per_rank_mean,
        log_every=1,
        evaluate_every=None,
        save_every=None,
        save_seconds=None,
        stop_after_skipped=10,
    )


@cache
def whole(case: Case, world: int, step: int, micro: int):
    """The global batch of a micro-step: texts of many lengths, and two rows that are one thing."""
    shares = shares_of(case, world, step)
    rows = sum(shares)
    generator = torch.Generator().manual_seed(100 * step + micro)
    lengths = torch.randint(3, 9, (rows,), generator=generator).tolist()
    captions = torch.randint(0, 10**9, (rows,), generator=generator) // 10 ** torch.arange(rows)
    images = [0, *range(rows - 1)]
    batch = tiny_batch(lengths, images=images, captions=captions.tolist(), seed=100 * step + micro)
    return replace(batch, index=torch.arange(rows) + APART * micro, epoch=torch.full((rows,), step))


def read_again(case: Case, world: int, index: torch.Tensor, epoch: torch.Tensor) -> torch.Tensor:
    """The patches of rows by their keys."""
    keys = zip(index.tolist(), epoch.tolist(), strict=True)
    return torch.stack([whole(case, world, step, row // APART).vision[row % APART] for row, step in keys])


def shares_of(case: Case, world: int, step: int) -> tuple[int, ...]:
    return case.shares if case.shares and step % 2 else (ROWS,) * world


def share(case: Case, world: int, step: int, micro: int):
    """This rank's rows, filled up where the ranks hold unequal numbers; all of them in one process."""
    batch, shares = whole(case, world, step, micro), shares_of(case, world, step)
    if distributed.world_size() == 1:
        return batch
    first = sum(shares[: distributed.rank()])
    rows = range(first, first + shares[distributed.rank()])
    if len(set(shares)) == 1:
        return rows_of(batch, slice(rows.start, rows.stop))
    return filled(batch, rows, max(shares))


class Seeds(nn.Module):
    """A stage that keeps the seed of torch's generator, from which dropout draws, at each of its calls."""

    def __init__(self):
        super().__init__()
        self.bridge, self.seen = nn.Linear(6, 1).double(), []

    def forward(self, batch, step):
        self.seen.append(torch.initial_seed())
        return Losses({"lm": Term(self.bridge(batch.vision).sum(), torch.ones(()))})

    def count(self, batch, step):
        return {"lm": torch.ones(())}


def seeds(steps=(0, 1, 2)) -> list[int]:
    """The seeds of two micro-steps of each of some optimizer steps, on this rank."""
    stage = Seeds()
    optimizer = make_optimizer(stage.bridge, AdamW(Rates(1e-4, 1e-4, 1e-4), (0.9, 0.98), 0.0), fresh=())
    trainer = Trainer(stage, optimizer, Accelerator(cpu=True), plan_of(Case(accumulation=2)))
    for number in steps:
        trainer.step([tiny_batch()] * 2, number)
    return stage.seen

"""Two ranks of which one meets what is not finite; spawned processes import only this."""

import math
import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import distributed as group

import trained_ranks
from isthmus.errors import UserError
from isthmus.train.hooks import Hooks
from isthmus.train.tracking import JsonLines, Reporter

WORLD = 2


def check(rank: int, folder: str) -> None:
    """Take steps of which the third is broken on rank 1, then only broken ones; leave what each rank has."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD), LOCAL_WORLD_SIZE=str(WORLD))
    group.init_process_group("gloo", init_method=(Path(folder) / "meeting").as_uri(), rank=rank, world_size=WORLD)
    try:
        case = trained_ranks.Case(stage=1, steps=9)
        trainer = trained_ranks.trainer_of(case)
        plan = replace(trained_ranks.plan_of(case), stop_after_skipped=3)
        trainer.plan = plan
        saved = []
        with JsonLines(Path(folder) / f"log{rank}.jsonl") as log:
            hooks = Hooks(dict, str, saved.append, lambda *_: None, log, Reporter("", 9, silent=True))
            try:
                trainer.run(batches(case, rank), hooks)
                ended = "by itself"
            except UserError as problem:
                ended = str(problem)
        parameters = {name: one.detach().clone() for name, one in trainer.bare.bridge.named_parameters()}
        torch.save({"ended": ended, "parameters": parameters, "saved": saved}, Path(folder) / f"rank{rank}.pt")
    finally:
        group.destroy_process_group()


def batches(case, rank):
    for step in range(case.steps):
        batch = trained_ranks.share(case, WORLD, step, 0)
        if rank == 1 and (step == 2 or step >= 5):
            batch = replace(batch, vision=batch.vision * math.nan)
        yield batch

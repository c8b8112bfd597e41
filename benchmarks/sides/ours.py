"""What our sides share: the bridge, its batches and a trainer, all of them the product's own."""

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from isthmus.build.precision import Compute, choose_compute
from isthmus.models.bridge import Bridge
from isthmus.qformer.layer import Dropouts
from isthmus.records import Batch, BridgeSizes, Identity, Text
from isthmus.train.chunked import Reread
from isthmus.train.loop import Trainer
from isthmus.train.optimizer import AdamW, Rates, make_optimizer
from isthmus.train.plan import Plan

RATE, BETAS, DECAY, DROPOUT = 1e-4, (0.9, 0.999), 0.05, 0.1
_ENDLESS = 1_000_000


def read_bridge(folder: Path) -> Bridge:
    """The bridge with the common weights."""
    sizes = BridgeSizes(**json.loads((folder / "about.json").read_text(encoding="utf-8"))["sizes"])
    bridge = Bridge(sizes, Dropouts(DROPOUT, DROPOUT, DROPOUT))
    bridge.load_state_dict(load_file(folder / "weights.safetensors"))
    return bridge


def read_compute(options: dict[str, Any]) -> Compute:
    """The precision that a run has where it is asked for by name."""
    return choose_compute("cpu", options["dtype"])


def read_batches(folder: Path, options: dict[str, Any], compute: Compute) -> list[Batch]:
    """All rows in batches, patches in the dtype that a store keeps them in."""
    rows = load_file(folder / "rows.safetensors")
    return [make_batch(rows, index, compute.dtype) for index in split(len(rows["ids"]), options["batch"])]


def split(rows: int, batch: int) -> list[Tensor]:
    """The rows of each batch."""
    return list(torch.split(torch.arange(rows), batch))


def make_batch(rows: dict[str, Tensor], index: Tensor, dtype: torch.dtype) -> Batch:
    """Some rows; every caption and every picture is another thing."""
    return Batch(
        vision=rows["patches"][index].to(dtype),
        captions=tuple(words(ids, mask) for ids, mask in zip(rows["ids"][index], rows["mask"][index], strict=True)),
        text=Text(rows["ids"][index], rows["mask"][index]).trimmed(),
        identity=Identity(index, index),
        index=index,
    )


def words(ids: Tensor, mask: Tensor) -> str:
    """A caption in the words of the common language model, `w101 w17`: an end mark takes the place of [SEP]."""
    return " ".join(f"w{token}" for token in ids[mask][:-1].tolist())


def make_trainer(
    stage: nn.Module, bridge: Bridge, compute: Compute, *, accumulation: int = 1, reread: Reread | None = None
) -> Trainer:
    """The trainer of a run at a constant rate that never clips."""
    settings = AdamW(Rates(RATE, RATE, RATE), BETAS, DECAY, decay_temperature=True)
    plan = Plan(
        steps=_ENDLESS,
        batches_per_epoch=_ENDLESS,
        accumulation=accumulation,
        warmup=0,
        warmup_from=0.0,
        lowest=1.0,
        cosine_by_epoch=False,
        clip=1e9,
        seed=0,
        per_rank_mean=False,
        log_every=_ENDLESS,
        evaluate_every=None,
        save_every=None,
        save_seconds=None,
        stop_after_skipped=10,
    )
    accelerator = Accelerator(mixed_precision=compute.mixed_precision, cpu=True)
    return Trainer(stage, make_optimizer(bridge, settings, fresh=()), accelerator, plan, reread=reread)

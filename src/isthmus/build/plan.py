"""Config → the optimizer and the plan of a run, and how its patches are read again."""

import torch

from isthmus.build.bridge import BuiltBridge
from isthmus.build.stages import learning_rates
from isthmus.config.run import RunConfig
from isthmus.data.loader import Look
from isthmus.features.store import StoredLook
from isthmus.train.chunked import Reread
from isthmus.train.optimizer import AdamW, make_optimizer
from isthmus.train.plan import Plan


def optimizer_of(config: RunConfig, built: BuiltBridge) -> torch.optim.AdamW:
    """AdamW over a bridge, at the config's rates."""
    train = config.train
    rates, betas = learning_rates(train, built), (train.beta1, train.beta2)
    settings = AdamW(rates, betas, train.weight_decay, train.decay_temperature)
    return make_optimizer(built.bridge, settings, fresh=built.fresh)


def plan_of(config: RunConfig, batches_per_epoch: int) -> Plan:
    """The run's counts and shares, as the config says."""
    train = config.train
    return Plan(
        steps=train.steps,
        batches_per_epoch=batches_per_epoch,
        accumulation=train.accumulation,
        warmup=round(train.warmup * train.steps),
        warmup_from=train.warmup_from,
        lowest=train.lr_min,
        cosine_by_epoch=train.schedule == "epoch",
        clip=train.clip,
        seed=config.seed,
        per_rank_mean=train.token_mean == "per_rank",
        log_every=train.log_every,
        evaluate_every=train.evaluate_every,
        save_every=train.save_every,
        save_seconds=None if train.save_minutes is None else 60 * train.save_minutes,
        stop_after_skipped=train.stop_after_skipped,
        together=config.llm is not None and config.llm.sharded,
    )


def reread_of(config: RunConfig, look: Look) -> Reread | None:
    """How the patches of a step's micro-batches are read again, where these are one contrastive batch."""
    if not config.train.chunked:
        return None
    assert isinstance(look, StoredLook)  # the config was refused otherwise
    return look.again

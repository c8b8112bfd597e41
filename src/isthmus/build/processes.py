"""The processes of a run: how one joins the others, if there are any, and what they exchange of a stage.

`torchrun` and `accelerate launch` start the same command several times and say by the environment who is who. One
process that was started by neither is a run of its own, without a group.
"""

import atexit
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import distributed as group
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from isthmus import distributed
from isthmus.build.precision import Compute, choose_compute
from isthmus.config.run import RunConfig
from isthmus.errors import ConfigError, LostProcessError

_BRIDGE = "bridge."
_ARRIVAL, _ATTEMPT = timedelta(minutes=30), "TORCHELASTIC_RESTART_COUNT"
_OTHER_WRAPPERS = {
    "ACCELERATE_USE_FSDP": "--use_fsdp",
    "ACCELERATE_USE_DEEPSPEED": "--use_deepspeed",
    "ACCELERATE_USE_MEGATRON_LM": "--use_megatron_lm",
}


def join(config: RunConfig, **options: Any) -> Accelerator:
    """Join the process group that a launcher announces, gloo's on CPUs and NCCL's on CUDA devices.

    A process that dies is noticed at once, one that hangs within `train.timeout_minutes`; `options` are Accelerate's.
    Raises `ConfigError` for a config or a launcher that does not fit so many processes, `LostProcessError` where the
    others cannot be reached.
    """
    compute = choose_compute(config.device, config.precision)
    _check_launcher(os.environ)
    _check_devices(config.device, compute, os.environ)
    timeout = timedelta(minutes=config.train.timeout_minutes)
    if {"RANK", "WORLD_SIZE"} <= os.environ.keys() and not group.is_initialized():
        _enter("gloo" if compute.device.type == "cpu" else "nccl", timeout)
    accelerator = _accelerator(compute, **options)
    _check_batch(config)
    _check_sharing(config)
    distributed.meet(timeout)
    return accelerator


def stay_alone(config: RunConfig) -> Accelerator:
    """The accelerator of a step that is taken for its sizes only: no group, and nothing is moved (`estimate`)."""
    _check_batch(config)
    return _accelerator(choose_compute(config.device, config.precision), moves=False)


def leave_towers_out(stage: nn.Module) -> None:
    """Let the processes exchange the bridge of a stage alone.

    Told nothing, DDP sends every parameter and buffer from the first process to all others at the start, frozen or not:
    the whole language model, which each has loaded by itself and proves by its hash, or of which it has a share.
    """
    named = [*stage.named_parameters(), *stage.named_buffers()]
    names = [name for name, _ in named if not name.startswith(_BRIDGE)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(stage, names)


def _accelerator(compute: Compute, *, moves: bool = True, **options: Any) -> Accelerator:
    # Gradients lie in the buckets that are sent: one copy of them, not two. No static graph: it finds what a forward
    # used by the tensors that are returned, and does not see into `Losses`. Every parameter of a bridge that can have a
    # gradient has one in each step, so that none need be looked for.
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    on_cpu = compute.device.type == "cpu"
    settings = {"mixed_precision": compute.mixed_precision, "cpu": on_cpu, "device_placement": moves}
    return Accelerator(**settings, kwargs_handlers=[ddp], **options)


def _enter(backend: str, timeout: timedelta) -> None:
    """Find the other processes, which may start much later than one may be silent afterwards."""
    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        store, rank, size = next(rendezvous("env://", timeout=_ARRIVAL))
        store = PrefixStore(f"isthmus/{os.environ.get(_ATTEMPT, 0)}", store)  # a launcher may keep one for all
        store.set(f"arrived/{rank}", "")
        store.wait([f"arrived/{one}" for one in range(size)], _ARRIVAL)
        group.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        atexit.register(_leave)
    except (RuntimeError, ValueError) as problem:
        reason = str(problem).strip().partition("\n")[0].rstrip(".")
        raise LostProcessError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} cannot join the others at {place} ({reason}); "
            "look whether all were started, can reach that address, and agree on it (MASTER_ADDR, MASTER_PORT)"
        ) from problem


def _leave() -> None:
    """Take the groups apart before the interpreter ends: gloo's threads abort a process that ends around them."""
    if group.is_initialized():
        group.destroy_process_group()


def _check_launcher(environment: Mapping[str, str]) -> None:
    """Refuse what a launcher announces and would not happen, or would happen to the wrong part."""
    for name, option in _OTHER_WRAPPERS.items():
        if environment.get(name, "").lower() == "true":
            raise ConfigError(
                f"`accelerate launch {option}` would wrap the bridge, which is small and trained by plain data "
                "parallelism; leave it out, and set llm.sharded=true for a language model that is too large"
            )
    one_alone = "MASTER_ADDR" in environment and not environment.keys() & {"RANK", "LOCAL_RANK", "PMI_SIZE"}
    if one_alone and environment.get("ACCELERATE_USE_CPU", "").lower() == "true":
        raise ConfigError(
            "`accelerate launch --cpu` starts one process whatever --num_processes says; start several on CPUs by "
            "`torchrun --nproc_per_node N`, or by `accelerate launch --multi_gpu --num_processes N` with device=cpu"
        )


def _check_devices(named: str, compute: Compute, environment: Mapping[str, str]) -> None:
    """Raise `ConfigError` where the processes of this host do not have a CUDA device each."""
    processes = int(environment.get("LOCAL_WORLD_SIZE", 1))
    if compute.device.type != "cuda" or processes == 1:
        return
    if compute.device.index is not None:
        raise ConfigError(
            f"`device` is {named!r}, and {processes} processes on this host cannot share one; use device=cuda, which "
            "gives each its own"
        )
    if processes > torch.cuda.device_count():
        raise ConfigError(
            f"{processes} processes were started on this host, which has {torch.cuda.device_count()} CUDA devices; "
            "start one for each"
        )


def _check_batch(config: RunConfig) -> None:
    """Refuse a global batch that has nothing to tell apart."""
    if config.stage == 1 and config.train.batch_size * config.train.accumulation * distributed.world_size() == 1:
        raise ConfigError(
            "a stage-1 global batch of 1 has no negatives for ITC and ITM; raise `train.batch_size` to 2 or more"
        )


def _check_sharing(config: RunConfig) -> None:
    """Refuse to share a language model out where there is nobody to share it with."""
    if config.llm is not None and config.llm.sharded and distributed.world_size() == 1:
        raise ConfigError(
            "`llm.sharded` shares the language model out over processes, and this run is one; start several with "
            "torchrun, or leave it out"
        )

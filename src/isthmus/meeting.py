"""Who takes part in a run, and small words between them: rank, agree, wait, and what is said when one is lost.

They go from host to host, over gloo on the CPU, so that no device is waited for and Python hears signals meanwhile. All
of it is the identity in one process. Tensors are gathered, exchanged and reduced in `distributed.py`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from isthmus.errors import LostProcessError

_PATIENCE = timedelta(days=20)  # gloo waits no longer than it is told, and counts to 2**31 milliseconds
_NAP = timedelta(seconds=1)


def world_size() -> int:
    """How many processes take part; 1 without a process group."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


@dataclass(frozen=True)
class _Hosts:
    """Two gloo groups of all ranks: one whose words come within the run's timeout, and one that waits for work."""

    world: Any  # the default group that they were made beside
    prompt: Any
    patient: Any


_hosts: _Hosts | None = None


def meet(timeout: timedelta | None = None) -> None:
    """Make the groups that `agree` and `wait` speak through, on every rank at once; does nothing in one process.

    `timeout` is that of `agree`, where the default group is not gloo's; None is torch's own. The first `agree` or
    `wait` does it where nobody has.
    """
    global _hosts
    if world_size() == 1 or (_hosts is not None and _hosts.world is distributed.group.WORLD):
        return
    world = distributed.group.WORLD
    on_cpu = distributed.get_backend() == "gloo"
    prompt = world if on_cpu else distributed.new_group(backend="gloo", timeout=timeout)
    _hosts = _Hosts(world, prompt, distributed.new_group(backend="gloo", timeout=_PATIENCE))


def agree(flags: int) -> int:
    """Join the bits that any rank has set: bitwise OR over all ranks of a number from 0 to 2**62.

    Every rank calls it at the same place, as at the start of a step. A rank that has died is found at once, one that
    hangs within the run's timeout; signals are heard meanwhile. Raises `LostProcessError` then.
    """
    return _joined(flags, distributed.ReduceOp.BOR)


def gather_objects(value: Any) -> list[Any]:
    """Every rank's value, in rank order; small ones, which are pickled on their way. Raises as `agree`."""
    if world_size() == 1:
        return [value]
    meet()
    assert _hosts is not None
    values: list[Any] = [None] * world_size()
    with telling():
        distributed.all_gather_object(values, value, group=_hosts.prompt)
    return values


def wait() -> None:
    """Let every rank come to this place before any goes on, for hours if need be; signals are heard meanwhile.

    Raises `LostProcessError` where a rank that was waited for has died.
    """
    if world_size() > 1:
        meet()
        assert _hosts is not None
        with telling():
            _finish(distributed.barrier(group=_hosts.patient, async_op=True))


@contextmanager
def in_turn() -> Iterator[None]:
    """Within, the ranks of one host come one after the other: what is large for a while is there once.

    The launcher says how many ranks a host has (LOCAL_WORLD_SIZE, LOCAL_RANK); without a launcher all are on one.
    """
    mine = int(os.environ.get("LOCAL_RANK", rank()))
    turns = _joined(int(os.environ.get("LOCAL_WORLD_SIZE", world_size())), distributed.ReduceOp.MAX)
    for _ in range(mine):
        wait()
    try:
        yield
    finally:
        for _ in range(turns - mine):
            wait()


@contextmanager
def telling() -> Iterator[None]:
    """Within, what a collective throws because another rank has died or hangs is told in one sentence.

    Raises `LostProcessError` in its place. Whatever else goes wrong passes as it is.
    """
    try:
        yield
    except RuntimeError as problem:
        if not _of_a_collective(problem):
            raise
        late = "timed out" in str(problem).lower()
        happened = "did not answer within train.timeout_minutes" if late else "has ended"
        raise LostProcessError(
            f"another process of this run {happened}, so process {rank()} of {world_size()} ends too; the reason "
            "stands in that process's own output; start the run again to go on from its last checkpoint"
        ) from problem


def _joined(number: int, operation: Any) -> int:
    if world_size() == 1:
        return number
    meet()
    assert _hosts is not None
    said = torch.tensor(number, device="cpu")
    with telling():
        _finish(distributed.all_reduce(said, operation, group=_hosts.prompt, async_op=True))
    return int(said)


def _finish(work: Any) -> None:
    """Wait for a collective, a nap at a time: Python hears signals only between two calls of torch."""
    while not work.is_completed():
        try:
            work.wait(_NAP)
        except RuntimeError:
            if work.is_completed():
                raise
    work.wait()  # raises what went wrong


def _of_a_collective(problem: RuntimeError) -> bool:
    """Whether torch's collectives threw it: gloo has no exception of its own, but names itself."""
    return isinstance(problem, distributed.DistError) or "gloo" in str(problem)

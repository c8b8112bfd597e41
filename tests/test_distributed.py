"""Collectives with and without a process group; two real processes, spawned once for every check."""

import torch
from torch import multiprocessing

from isthmus import distributed
from two_ranks import WORLD, check_everything


def test_one_process_is_not_special():
    rows = torch.randn(3, 2, requires_grad=True)
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.gather(rows) is rows
    assert not distributed.gather(rows, exact=False).requires_grad
    assert torch.equal(distributed.gather_padded(torch.ones(2, 3)), torch.ones(2, 3))
    assert torch.equal(distributed.reduce_sum(rows), rows) and not distributed.reduce_sum(rows).requires_grad
    distributed.wait()


def test_two_processes(tmp_path):
    multiprocessing.spawn(check_everything, (str(tmp_path / "meeting"),), nprocs=WORLD)

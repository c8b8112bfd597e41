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
    assert distributed.gather_together(torch.arange(3), torch.arange(3) + 4)[1].tolist() == [4, 5, 6]
    assert torch.equal(distributed.reduce_sum(rows), rows) and not distributed.reduce_sum(rows).requires_grad
    summed = distributed.reduce_sums({"itc": rows.sum()})
    assert torch.equal(summed["itc"], rows.sum()) and not summed["itc"].requires_grad
    distributed.wait()


def test_one_process_has_every_row_that_it_chooses(monkeypatch):
    monkeypatch.setattr(distributed, "distributed", None)  # nothing is asked of torch's collectives
    monkeypatch.setattr(distributed, "world_size", lambda: 1)
    wanted = distributed.Exchange(torch.tensor([2, 0, 0]), torch.tensor([1, 1, 2]), rows=3, width=7)
    assert [wanted.places(number).tolist() for number in (0, 1)] == [[2, 0, 0], [1, 1, 2]]
    assert wanted.fetch(0, torch.ones(3, 4, 5)).shape == (0, 4, 5)
    assert wanted.widest == 7


def test_two_processes(tmp_path):
    multiprocessing.spawn(check_everything, (str(tmp_path / "meeting"),), nprocs=WORLD)

"""What each of two processes checks for `test_distributed.py`; spawned processes import only this."""

from pathlib import Path

import torch
from torch import distributed as group
from torch.nn.parallel import DistributedDataParallel

from bridges import DEC, rows_of, tiny_batch, tiny_bridge
from isthmus import distributed
from isthmus.models.stage1 import Stage1, Stage1Options
from isthmus.records import Step, mean_over
from isthmus.train.meters import Meters

WORLD = 2
BATCHES = {
    "all different": tiny_batch((5, 3, 4, 6)),
    "same things across ranks": tiny_batch((6, 3, 4, 2), images=[0, 1, 0, 3], captions=[0, 1, 2, 1]),
    "nothing to draw": tiny_batch((3, 3, 3, 3), images=[1, 1, 1, 1]),
}
STEPS = {"uniform": Step(0, 0, 0.1), "hard": Step(0, 1, 0.9)}


def check_everything(rank: int, meeting: str) -> None:
    """Run every check as one of two ranks that meet at a file."""
    torch.set_num_threads(1)
    alone = {case: train_step(*case) for case in cases()}
    group.init_process_group("gloo", init_method=Path(meeting).as_uri(), rank=rank, world_size=WORLD)
    try:
        assert (distributed.rank(), distributed.world_size()) == (rank, WORLD)
        gathers(rank)
        reduces(rank)
        for case, expected in alone.items():
            equals_one_process(case, expected)
        distributed.wait()
    finally:
        group.destroy_process_group()


def cases() -> list[tuple[str, str, str]]:
    exact = [(batch, step, "exact") for batch in BATCHES for step in STEPS]
    return [*exact, ("all different", "hard", "detached")]


def gathers(rank: int) -> None:
    """Forward and gradient of `gather`, exact and detached, and `gather_together`."""
    mine = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) * (10**rank)
    everyone = torch.tensor([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0], [30.0, 40.0]])
    rows = mine.clone().requires_grad_()
    gathered = distributed.gather(rows)
    assert torch.equal(gathered, everyone)
    # rank r's loss weighs gathered row n by (r + 1) * n: each row's gradient is the sum over both ranks' losses
    (gathered * torch.arange(4.0)[:, None] * (rank + 1)).sum().backward()
    assert torch.equal(rows.grad, 3 * torch.arange(4.0)[2 * rank : 2 * rank + 2, None].expand(2, 2))
    detached = distributed.gather(mine.clone().requires_grad_(), exact=False)
    assert torch.equal(detached, everyone) and not detached.requires_grad
    whole = distributed.gather(torch.tensor([2**62 + rank]))
    assert whole.tolist() == [2**62, 2**62 + 1]
    columns = distributed.gather_together(torch.tensor([rank, 5]), torch.tensor([7, 2**62 + rank]))
    assert [column.tolist() for column in columns] == [[0, 5, 1, 5], [7, 2**62, 7, 2**62 + 1]]


def reduces(rank: int) -> None:
    """Sums over ranks leave their argument alone; meters weigh ranks by their weights."""
    value = torch.tensor([1.0, 2.0]) * (rank + 1)
    total = distributed.reduce_sum(value.requires_grad_())
    assert total.tolist() == [3.0, 6.0] and not total.requires_grad
    assert value.tolist() == [rank + 1.0, 2 * rank + 2.0]
    meters = Meters()
    meters.add({"lm": torch.tensor(10.0 * rank)}, {"lm": torch.tensor(1.0 + 3 * rank)})
    assert meters.read() == {"lm": 10.0 / 5}


def train_step(batch: str, step: str, gather: str) -> tuple[dict[str, tuple[float, float]], dict[str, torch.Tensor]]:
    """This rank's share of one training step as the loop takes it: terms summed over ranks, averaged gradients."""
    stage = Stage1(tiny_bridge(), dec=DEC, options=Stage1Options(gather=gather))
    size, rank = len(BATCHES[batch]) // distributed.world_size(), distributed.rank()
    mine = rows_of(BATCHES[batch], slice(rank * size, (rank + 1) * size))
    weights = {name: distributed.reduce_sum(weight) for name, weight in stage.count(mine, STEPS[step]).items()}
    wrapped = DistributedDataParallel(stage) if distributed.world_size() > 1 else stage
    losses = wrapped(mine, STEPS[step])
    (sum(mean_over(term.sum, weights[name]) for name, term in losses) * distributed.world_size()).backward()
    terms = {n: (float(distributed.reduce_sum(t.sum)), float(distributed.reduce_sum(t.weight))) for n, t in losses}
    return terms, {name: parameter.grad for name, parameter in stage.named_parameters()}


def equals_one_process(case: tuple[str, str, str], expected: tuple[dict, dict]) -> None:
    """Two ranks of batch B are one process of batch 2B, losses and gradients, whatever ITC's gradient leaves out."""
    (terms, gradients), (one_terms, one_gradients) = train_step(*case), expected
    for name, values in one_terms.items():
        assert torch.allclose(torch.tensor(terms[name]), torch.tensor(values), atol=1e-10, rtol=1e-10), (case, name)
    for name, gradient in one_gradients.items():
        scale = max(1.0, gradient.abs().max().item())
        assert torch.allclose(gradients[name], gradient, atol=1e-10 * scale, rtol=0), (case, name)

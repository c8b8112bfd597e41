"""What each of two processes checks for `test_distributed.py`; spawned processes import only this."""

from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch import distributed as group
from torch.nn.parallel import DistributedDataParallel

from bridges import DEC, rows_of, tiny_batch, tiny_bridge
from isthmus import distributed
from isthmus.models import stage1
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
        exchanges(rank)
        exchanges_of_any_choice(rank)
        only_chosen_patches_travel(rank)
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
    numbers = {"itc": torch.tensor(2.0**24 + rank).requires_grad_(), "itm": torch.tensor(rank)}
    with collectives() as seen:
        sums = distributed.reduce_sums(numbers)
    assert [name for name, _ in seen] == ["all_reduce"], "all names in one"
    assert {name: value.item() for name, value in sums.items()} == {"itc": 2.0**25, "itm": 1}
    assert sums["itm"].dtype == torch.long and not sums["itc"].requires_grad
    meters = Meters()
    meters.add({"lm": torch.tensor(10.0 * rank)}, {"lm": torch.tensor(1.0 + 3 * rank)})
    assert meters.read() == {"lm": 10.0 / 5}


@contextmanager
def collectives():
    """Every collective that is called within: its name, and the tensor that this rank sends."""
    seen, sends = [], {"all_gather": 1, "all_reduce": 0, "all_to_all_single": 1}
    with ExitStack() as patches:
        for name, place in sends.items():
            patches.enter_context(mock.patch.object(group, name, _told(getattr(group, name), name, place, seen)))
        yield seen


def _told(call, name, place, seen):
    def told(*given, **named):
        seen.append((name, given[place]))
        return call(*given, **named)

    return told


def exchanges(rank):
    """Chosen rows arrive, each once, whatever the dtype; a rank's own are not sent; the widest width is known."""
    wanted = [[3, 1, 3, 0], [3, 2, 1, 2]][rank], [[0, 0, 1, 1], [0, 1, 0, 1]][rank]
    exchange = distributed.Exchange(*map(torch.tensor, wanted), rows=2, width=5 + 2 * rank)
    assert exchange.widest == 7
    everyone = torch.arange(24).view(4, 2, 3)
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.long, torch.bool):
        mine = everyone[2 * rank : 2 * rank + 2].to(dtype)
        with collectives() as seen:
            fetched = [exchange.fetch(number, mine) for number in (0, 1)]
        assert [rows.dtype for rows in fetched] == [dtype] * 2
        assert torch.equal(fetched[0], everyone[[[3], [1]][rank]].to(dtype))
        assert torch.equal(fetched[1], everyone[[[], [0, 1]][rank]].to(dtype)), "nothing, where all are its own"
        assert [sent.shape[0] for _, sent in seen] == [[1, 2], [1, 0]][rank], "twice wanted, once sent"
    assert exchange.places(0).tolist() == [[2, 1, 2, 0], [1, 0, 2, 0]][rank]
    assert exchange.places(1).tolist() == [[0, 0, 1, 1], [2, 3, 2, 3]][rank]


def exchanges_of_any_choice(rank):
    """Own rows followed by the fetched ones hold every chosen row, where the places say."""
    world, rows, generator = distributed.world_size(), 3, torch.Generator().manual_seed(0)
    everyone = torch.randn(world * rows, 2, 5, generator=generator)
    mine = everyone[rank * rows : (rank + 1) * rows]
    for _ in range(10):
        chosen = torch.randint(0, world * rows, (world, 2, 6), generator=generator)
        exchange = distributed.Exchange(*chosen[rank], rows=rows, width=1)
        for number in (1, 0):
            here = torch.cat([mine, exchange.fetch(number, mine)])
            assert torch.equal(here[exchange.places(number)], everyone[chosen[rank, number]])
            foreign = set(chosen[rank, number].tolist()) - set(range(rank * rows, (rank + 1) * rows))
            assert len(here) == rows + len(foreign)


def only_chosen_patches_travel(rank):
    """Of patches each rank sends those that others drew, once to each; the rest of what is sent is small."""
    batch, projected, drawn = tiny_batch((5, 3, 4, 6, 3, 4, 5, 7), patches=40), [], []
    stage, mine = Stage1(tiny_bridge(), dec=DEC), rows_of(batch, slice(4 * rank, 4 * rank + 4))
    project, draw = stage.bridge.qformer.memory.project, stage1.draw_negatives
    stage.bridge.qformer.memory.project = lambda patches: projected.append(len(patches)) or project(patches)
    generate = stage.generate
    with (
        mock.patch.object(stage, "generate", lambda *a: seen.append(("ITG", torch.ones(0, 0))) or generate(*a)),
        mock.patch.object(stage1, "draw_negatives", lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1]),
        collectives() as seen,
    ):
        stage(mine, STEPS["hard"])
    order = [name for name, _ in seen]
    assert order[-4:] == ["all_gather", "ITG", "all_to_all_single", "all_to_all_single"], "ITG while the host is told"
    images = drawn[0].index
    foreign = images[images // 4 != rank].unique()
    assert 0 < len(foreign) < 4, "some of the drawn images are own ones, or drawn twice: else this tests little"
    assert projected == [4, len(foreign)], "own images are projected once, and no row of another rank twice"
    sent = [tensor for name, tensor in seen if name == "all_to_all_single" and tensor.shape[1] == 40]
    others = sum(tensor.numel() * tensor.element_size() for _, tensor in seen if tensor is not sent[0])
    picture = mine.vision[0].numel() * mine.vision.element_size()
    travelled = distributed.reduce_sum(torch.tensor(sent[0].numel() * sent[0].element_size()))
    assert travelled == distributed.reduce_sum(torch.tensor(len(foreign) * picture))
    assert travelled < len(batch) * picture, "what gathering all sends to two ranks"
    assert len(sent) == 1 and others < 2 * picture, others


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

"""The number of processes changes speed, not mathematics: the real trainer in one, two and three processes."""

from functools import cache

import pytest
import torch
from torch import multiprocessing

import trained_ranks
from isthmus.fingerprint import text_identity
from isthmus.randomness import hash64
from isthmus.records import Step
from trained_ranks import CASES, TWO

TOLERANCE = 1e-10


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """The folder with what every process left, as one of three and as one of two."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(trained_ranks.check, (str(folder),), nprocs=3)
    return folder


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, left):
    """How many processes there were, and what came out in each."""
    return request.param, [torch.load(left / f"{rank} of {request.param}.pt") for rank in range(request.param)]


@cache
def alone(world, name):
    """A case in this one process, on the batches that so many share."""
    return trained_ranks.train(CASES[world][name], world)


def equal(found, expected):
    """Numbers by name are the same up to rounding, each beside the largest of its own tensor."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        value, other = torch.as_tensor(value), torch.as_tensor(found[name])
        assert torch.allclose(other, value, atol=TOLERANCE * max(1.0, value.abs().max().item()), rtol=0), name


def cases(world):
    return {name: case for name, case in CASES[world].items() if not case.per_rank_mean}


def test_losses_gradients_and_parameters_are_those_of_one_process(ranks):
    world, found = ranks
    for name, case in cases(world).items():
        one = alone(world, name)
        start = dict(trained_ranks.make_stage(case).bridge.named_parameters())
        for rank in found:
            rank = rank["cases"][name]
            assert len(rank["losses"]) == case.steps
            for losses, expected in zip(rank["losses"], one["losses"], strict=True):
                equal(losses, expected)
            equal(rank["gradients"], one["gradients"])
            equal(rank["parameters"], one["parameters"])
        moved = [(one["parameters"][key] - value).abs().max() for key, value in start.items()]
        assert max(moved) > 1e-4, "ten steps of nothing would prove nothing"


def test_every_rank_ends_with_the_same_bits(ranks):
    _, found = ranks
    for name in found[0]["cases"]:
        for rank in found[1:]:
            for key, value in found[0]["cases"][name]["parameters"].items():
                assert torch.equal(rank["cases"][name]["parameters"][key], value), (name, key)


def together(drawn, parts):
    """What was drawn for a step's micro-batches, one after the other, as one draw in each direction."""
    steps = (drawn[first : first + 2 * parts] for first in range(0, len(drawn), 2 * parts))
    return [tuple(map(torch.cat, zip(*step[direction::2], strict=True))) for step in steps for direction in (0, 1)]


def test_the_same_negatives_are_drawn(ranks):
    world, found = ranks
    for name, case in cases(world).items():
        parts = case.accumulation if case.joined else 1
        drawn = together(found[0]["cases"][name]["negatives"], parts)
        by_one = alone(world, name)["negatives"]
        assert len(drawn) == len(by_one) == (2 * case.steps if case.stage == 1 else 0)
        for number, ((index, weight), (one_index, one_weight)) in enumerate(zip(drawn, by_one, strict=True)):
            shares = trained_ranks.shares_of(case, world, number // 2)
            here = [
                (part * world + rank) * max(shares) + row
                for part in range(parts)
                for rank, share in enumerate(shares)
                for row in range(share)
            ]
            assert torch.equal(index[here], torch.tensor(here)[one_index]), (name, number)
            assert torch.equal(weight[here], one_weight)
            assert weight.sum() == one_weight.sum(), "a row that only fills a rank up has none"


def test_a_mean_of_each_ranks_own_is_the_mean_of_those_means(left):
    """By hand: each rank's tokens over its own count, over both micro-batches; then the mean over the ranks."""
    world, name = 2, "stage 2, a mean of each rank's"
    case, found = TWO[name], torch.load(left / "0 of 2.pt")
    stage, step = trained_ranks.make_stage(case).train(), Step(3, 0, 0.0)
    total = 0
    for rank in range(world):
        rows = slice(rank * trained_ranks.ROWS, (rank + 1) * trained_ranks.ROWS)
        micro = [trained_ranks.whole(case, world, 0, number) for number in range(case.accumulation)]
        terms = [stage(trained_ranks.rows_of(batch, rows), step)["lm"] for batch in micro]
        total = total + sum(term.sum for term in terms) / sum(term.weight for term in terms) / world
    total.backward()
    equal(found["cases"][name]["gradients"], trained_ranks.gradients_of(stage))
    as_one = trained_ranks.train(trained_ranks.Case(stage=2, accumulation=2, steps=1), world)["gradients"]
    assert not torch.allclose(as_one["projection.weight"], stage.bridge.projection.weight.grad, atol=1e-6, rtol=0)


def test_dropout_is_keyed_by_seed_step_micro_step_and_rank(ranks):
    world, found = ranks
    dropout = text_identity("dropout of a micro-batch")
    for rank in range(world):
        keys = [int(hash64(3, dropout, step, micro, rank)) for step in range(3) for micro in range(2)]
        assert found[rank]["seeds"] == [torch.Generator().manual_seed(key).initial_seed() for key in keys]
    assert len({seed for rank in found for seed in rank["seeds"]}) == 6 * world


def test_a_run_that_goes_on_draws_the_dropout_of_the_unbroken_one():
    assert trained_ranks.seeds((2, 3)) == trained_ranks.seeds((0, 1, 2, 3))[4:]

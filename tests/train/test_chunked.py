"""A contrastive batch in two passes: the same numbers as in one, and no more in memory than a micro-batch takes."""

import weakref
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from bridges import DEC, one_batch, tiny_batch, tiny_bridge
from isthmus.models import stage1
from isthmus.models.contrast import Contrast, Embeddings, Others
from isthmus.models.stage1 import Stage1, Stage1Options
from isthmus.objectives.itm import Anchors
from isthmus.objectives.negatives import Negatives
from isthmus.records import Text
from isthmus.train import chunked
from isthmus.train.loop import Trainer
from isthmus.train.optimizer import AdamW, Rates, make_optimizer
from trained_ranks import Case, gradients_of, plan_of

APART, STEPS, TOLERANCE = 100, 10, 1e-10
UNIFORM, HARD = 0, STEPS - 1
BATCHES = {
    "all different": [{"lengths": (5, 3, 4)}, {"lengths": (6, 3, 7)}, {"lengths": (3, 3, 3)}],
    "things in several": [
        {"lengths": (5, 3, 4), "images": [1, 2, 3]},
        {"lengths": (4, 3, 3), "images": [4, 1, 5], "captions": [103, 104, 2]},
    ],
    "one thing in one": [{"lengths": (3, 5), "images": [7, 7]}, {"lengths": (4, 4), "images": [1, 7]}],
    "nothing to draw": [{"lengths": (3, 5), "images": [7, 7]}, {"lengths": (4, 4), "images": [7, 7]}],
    "of unequal size": [{"lengths": (5,)}, {"lengths": (6, 3, 3, 4)}],
}


def parts_of(name):
    """The micro-batches of a batch; the keys of a row say which it is."""
    return [part(number, **told) for number, told in enumerate(BATCHES[name])]


def part(number, lengths, **things):
    index = APART * number + torch.arange(len(lengths))
    things = {"images": index.tolist(), "captions": index.tolist(), **things}
    batch = tiny_batch(lengths, **things, seed=number)
    return replace(batch, index=index, epoch=torch.full_like(index, number))


def reread_of(parts):
    def reread(index, epoch):
        keys = zip(index.tolist(), epoch.tolist(), strict=True)
        return torch.stack([parts[number].vision[row - APART * number] for row, number in keys])

    return reread


def make_stage(dropout=0.0, temperature=0.2, **options):
    stage = Stage1(tiny_bridge(dropout), dec=DEC, options=Stage1Options(**options))
    stage.bridge.heads.temperature.data.fill_(temperature)
    return stage.train()


def make_trainer(stage, parts=None):
    """A trainer in two passes over these parts, or in one over what it is given."""
    optimizer = make_optimizer(stage.bridge, AdamW(Rates(1e-4, 1e-4, 1e-4), (0.9, 0.98), 0.05), fresh=())
    count = 1 if parts is None else len(parts)
    plan = replace(plan_of(Case(steps=STEPS)), accumulation=count, batches_per_epoch=4 * count)
    reread = None if parts is None else reread_of(parts)
    return Trainer(stage, optimizer, Accelerator(cpu=True), plan, reread=reread)


def taken(trainer, stage, batches, number):
    """A step's gradients, before its parameters change, and what its losses come to."""
    found = []
    hook = trainer.raw_optimizer.register_step_pre_hook(lambda *_: found.append(gradients_of(stage)))
    trainer.step(batches, number)
    hook.remove()
    return found[0], trainer.meters.read()


def equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        value, other = torch.as_tensor(value), torch.as_tensor(found[name])
        assert torch.allclose(other, value, atol=TOLERANCE * max(1.0, value.abs().max().item()), rtol=0), name


@pytest.fixture(params=[2**24, 40], ids=["one block", "many blocks"])
def blocks(request, monkeypatch):
    monkeypatch.setattr(chunked, "SCORES", request.param)


@pytest.mark.parametrize("gather", ["exact", "detached"])
@pytest.mark.parametrize("number", [UNIFORM, HARD], ids=["uniform", "hard"])
@pytest.mark.parametrize("name", BATCHES)
def test_losses_and_gradients_are_those_of_one_pass(blocks, name, number, gather):
    parts, one, two = parts_of(name), make_stage(gather=gather), make_stage(gather=gather)
    expected = taken(make_trainer(one), one, [one_batch(parts)], number)
    found = taken(make_trainer(two, parts), two, iter(parts), number)
    for values, others in zip(found, expected, strict=True):
        equal(values, others)
    assert any(gradient.abs().max() > 1e-3 for gradient in found[0].values())


SWITCHES = [{"identity": "off"}, {"temperature": 0.8}, {"negatives": "hard"}, {"itm_every": 2}, {"itm_every": 5}]


@pytest.mark.parametrize("options", SWITCHES, ids=str)
def test_the_switches_of_the_stage_are_heeded(options):
    parts, one, two = parts_of("things in several"), make_stage(**options), make_stage(**options)
    expected = taken(make_trainer(one), one, [one_batch(parts)], UNIFORM)
    for values, others in zip(taken(make_trainer(two, parts), two, parts, UNIFORM), expected, strict=True):
        equal(values, others)


def test_rows_that_do_not_count_change_nothing():
    parts, one, two = parts_of("all different"), make_stage(), make_stage()
    few = parts[:2]
    filled = [*few, replace(parts[2], counted=torch.zeros(3, dtype=torch.bool))]
    expected = taken(make_trainer(one), one, [one_batch(few)], HARD)
    for values, others in zip(taken(make_trainer(two, filled), two, filled, HARD), expected, strict=True):
        equal(values, others)


def test_without_the_other_micro_batches_the_gradient_is_another():
    """What would pass where each micro-batch was its own contrastive batch."""
    parts, one, two = parts_of("all different"), make_stage(), make_stage()
    alone, _ = taken(make_trainer(one), one, parts, HARD)
    found, _ = taken(make_trainer(two, parts), two, parts, HARD)
    assert (alone["heads.image.weight"] - found["heads.image.weight"]).abs().max() > 1e-3


@pytest.mark.parametrize("number", [UNIFORM, HARD], ids=["uniform", "hard"])
@pytest.mark.parametrize("name", BATCHES)
def test_the_same_negatives_are_drawn(blocks, name, number, monkeypatch):
    drawn, draw, parts = [], stage1.draw_negatives, parts_of(name)
    monkeypatch.setattr(stage1, "draw_negatives", lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1])
    make_trainer(make_stage()).step([one_batch(parts)], number)
    expected, drawn[:] = drawn[:], []
    make_trainer(make_stage(), parts).step(parts, number)
    for direction, whole in enumerate(expected):
        assert torch.equal(torch.cat([one.index for one in drawn[direction::2]]), whole.index)
        assert torch.equal(torch.cat([one.weight for one in drawn[direction::2]]), whole.weight)


def test_dropout_is_the_same_in_both_passes():
    """The oracle has the graph of all micro-batches at once, each with the dropout that its seed gives."""
    parts, one, two = parts_of("things in several"), make_stage(dropout=0.3), make_stage(dropout=0.3)
    trainer = make_trainer(two, parts)
    whole = one_batch(parts)
    states, own, losses, begun = [], [], [], []
    for number, batch in enumerate(parts):
        trainer._seed(HARD, number)
        image, embeddings = one.encode(batch)
        losses.append(one.generate(batch, image.prefix).sum)
        own.append(embeddings)
        begun.append(image.memory)
        states.append(torch.get_rng_state())
    everyone = Embeddings(*(torch.cat(rows) for rows in zip(*(each.both for each in own), strict=True)))
    contrast, pairs = Contrast.between(everyone, everyone), one.pairs(whole)
    images, captions = one.negatives(contrast, pairs, trainer._keys(HARD))
    sums = {"itc": one.itc(contrast, pairs).sum, "itg": sum(losses), "itm": 0}
    for number, (batch, memory) in enumerate(zip(parts, begun, strict=True)):
        torch.set_rng_state(states[number])
        rows = slice(3 * number, 3 * number + 3)
        second = torch.arange(3, 6)
        read = torch.cat([torch.arange(6)[rows], captions.index[rows]])
        others = Others(
            Anchors(torch.arange(3), torch.ones(3)),
            whole.vision[images.index[rows]],
            Text(whole.text.ids[read], whole.text.mask[read]).trimmed(),
            Negatives(second, images.weight[rows]),
            Negatives(second, captions.weight[rows]),
        )
        sums["itm"] = sums["itm"] + one.match(batch, memory, others).sum
    weights = {"itc": 6.0, "itg": whole.text.mask[:, 1:].sum(), "itm": 6 + (images.weight + captions.weight).sum()}
    means = {name: total / weights[name] for name, total in sums.items()}
    sum(means.values()).backward()
    gradients, found = taken(trainer, two, parts, HARD)
    equal(found, {name: mean.item() for name, mean in means.items()})
    equal(gradients, gradients_of(one))


class Kept:
    """Bytes of what is kept for a backward pass: now, and at most."""

    def __init__(self):
        self.now = self.most = 0

    def __enter__(self):
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda one: one[0])
        self._hooks.__enter__()
        return self

    def __exit__(self, *problem):
        self._hooks.__exit__(*problem)

    def _pack(self, tensor):
        class Held(list):
            pass

        held = Held([tensor.detach()])  # with its graph, an output that is kept would keep itself
        size = tensor.numel() * tensor.element_size()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(held, self._release, size)
        return held

    def _release(self, size):
        self.now -= size


def kept(count, *, two):
    """The most that a step on so many micro-batches keeps for its backward passes."""
    parts, stage = [part(number, (6,) * 4) for number in range(count)], make_stage(dropout=0.1)
    trainer = make_trainer(stage, parts if two else None)
    with Kept() as bytes_kept:
        trainer.step(parts if two else [one_batch(parts)], HARD)
    assert bytes_kept.now == 0
    return bytes_kept.most


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_micro_batches():
    few, many = (kept(count, two=True) for count in (2, 8))
    assert many == few
    assert kept(8, two=False) > 3.5 * kept(2, two=False)


def test_patches_are_let_go_of_before_more_are_read():
    parts = [part(number, (4, 3)) for number in range(5)]
    held = []

    def alive():
        return sum(one() is not None for one in held)

    def fresh():
        for one in parts:
            assert alive() <= 1, "the one before may wait until it is replaced"
            batch = replace(one, vision=one.vision.clone())
            held.append(weakref.ref(batch.vision))
            yield batch
            del batch

    def reread(index, epoch):
        assert alive() <= 1
        patches = read(index, epoch)
        held.append(weakref.ref(patches))
        return patches

    trainer, read = make_trainer(make_stage(), parts), reread_of(parts)
    trainer.take._reread = reread
    trainer.step(fresh(), HARD)
    assert len(held) == 10 and alive() == 0

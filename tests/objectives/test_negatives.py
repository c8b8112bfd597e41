import math

import pytest
import torch

from isthmus.objectives.negatives import IMAGES_FOR_TEXT, TEXTS_FOR_IMAGE, NegativeKey, draw_negatives
from isthmus.randomness import gumbel

KEY = NegativeKey(seed=3, epoch=1, direction=IMAGES_FOR_TEXT)


def draw(log_weight, same, *, anchors=None, candidates=None, key=KEY, offset=0):
    rows, total = log_weight.shape
    anchors = torch.arange(rows) if anchors is None else anchors
    candidates = torch.arange(total) if candidates is None else candidates
    return draw_negatives(log_weight, same=same, anchors=anchors, candidates=candidates, key=key, offset=offset)


def test_the_only_other_thing_is_drawn():
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    negatives = draw(torch.zeros(3, 3), same)
    assert negatives.index[:2].tolist() == [2, 2]
    assert negatives.index[2] in (0, 1)
    assert negatives.weight.tolist() == [1, 1, 1]


def test_without_a_candidate_the_row_keeps_itself_and_weighs_nothing():
    negatives = draw(torch.zeros(3, 3), torch.ones(3, 3) > 0)
    assert negatives.index.tolist() == [0, 1, 2]
    assert negatives.weight.tolist() == [0, 0, 0]
    alone = draw(torch.zeros(1, 1), torch.ones(1, 1) > 0)
    assert (alone.index.tolist(), alone.weight.tolist()) == ([0], [0])
    later = draw(torch.zeros(2, 5), torch.ones(2, 5) > 0, offset=3)
    assert (later.index.tolist(), later.weight.tolist()) == ([3, 4], [0, 0])


def test_a_same_thing_is_never_drawn_however_similar():
    generator = torch.Generator().manual_seed(0)
    thing = torch.randint(0, 5, (40,), generator=generator)
    same = thing[:, None] == thing
    for epoch in range(20):
        negatives = draw(same * 1e6, same, key=NegativeKey(0, epoch, TEXTS_FOR_IMAGE))
        assert (thing[negatives.index] != thing).all()


def slow_draw(log_weight, same, key):
    """Candidate by candidate, one scalar draw each."""
    chosen = []
    for a in range(len(log_weight)):
        scores = {
            c: float(log_weight[a, c]) + float(gumbel(key.seed, key.epoch, key.direction, a, c))
            for c in range(log_weight.shape[1])
            if not same[a, c]
        }
        chosen.append(max(scores, key=scores.__getitem__))
    return chosen


def test_the_slow_oracle():
    log_weight = torch.randn(6, 6, generator=torch.Generator().manual_seed(4))
    same = torch.eye(6) > 0
    assert draw(log_weight, same).index.tolist() == slow_draw(log_weight, same, KEY)


def test_draws_follow_the_weights():
    log_weight = torch.tensor([[0.0, math.log(1), math.log(3)]])
    same = torch.tensor([[True, False, False]])
    drawn = [draw(log_weight, same, key=NegativeKey(0, epoch, IMAGES_FOR_TEXT)).index.item() for epoch in range(2000)]
    assert drawn.count(2) / 2000 == pytest.approx(0.75, abs=0.03)


def test_a_draw_depends_on_its_key_alone_not_on_who_draws_it():
    log_weight, same = torch.zeros(8, 8), torch.eye(8) > 0
    whole = draw(log_weight, same).index
    ranks = [draw(log_weight[s], same[s], anchors=torch.arange(8)[s]).index for s in (slice(0, 3), slice(3, 8))]
    assert torch.equal(whole, torch.cat(ranks))
    other_epoch = draw(log_weight, same, key=NegativeKey(3, 2, IMAGES_FOR_TEXT)).index
    other_direction = draw(log_weight, same, key=NegativeKey(3, 1, TEXTS_FOR_IMAGE)).index
    assert not torch.equal(whole, other_epoch)
    assert not torch.equal(whole, other_direction)

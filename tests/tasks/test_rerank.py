"""Re-ranked places against the slow oracle: every query's candidates sorted one query at a time."""

import pytest
import torch

from bridges import rows_of, tiny_batch, tiny_bridge
from captioned import Captioned, tokenize
from isthmus.models.ranking import Ranking, match_logits
from isthmus.records import Text
from isthmus.tasks.rerank import choose_weight, match_shortlists
from isthmus.tasks.retrieval import DIRECTIONS, embed, itc_ranks

RANKINGS = [Ranking(0.0, "log_odds", 3), Ranking(0.7, "log_odds", 3), Ranking(1.0, "original", 3)]


@pytest.fixture(scope="module")
def scene():
    """Six pictures, nine captions, two pictures of one thing."""
    bridge, batch = tiny_bridge().eval(), tiny_batch((4,) * 6)
    texts = [("abc", "a"), ("b",), ("ac",), ("abcdef", "c", "d"), ("e",), ("fgh",)]
    source = Captioned(texts, ["x", "y", "y", "z", "u", "v"])
    found = embed(bridge, [batch], source, tokenize=tokenize, device=torch.device("cpu"))
    return bridge, batch, found


def slow_order(cosine, logits, temperature, ranking):
    """The shortlist in its new order, then the rest as it was."""
    order = sorted(range(len(cosine)), key=lambda column: -cosine[column])
    first, rest = order[: ranking.shortlist], order[ranking.shortlist :]

    def score(column):
        no, yes = logits[column]
        if ranking.rule == "original":
            return cosine[column] + yes
        return cosine[column] / temperature + ranking.weight * (yes - no)

    return sorted(first, key=lambda column: -score(column)) + rest


@torch.no_grad()
def slow_places(bridge, batch, found, direction, ranking):
    cosine, right = found.similarity(), found.same()
    places = []
    memory = bridge.qformer.encode_image(batch.vision).memory
    images, texts = cosine.shape
    pairs = torch.cartesian_prod(torch.arange(images), torch.arange(texts))
    words = Text(found.words.ids[pairs[:, 1]], found.words.mask[pairs[:, 1]])
    logits = match_logits(bridge, memory.select(pairs[:, 0]), words).view(images, texts, 2)
    if direction == "text_to_image":
        cosine, right, logits = cosine.T, right.T, logits.transpose(0, 1)
    for row in range(len(cosine)):
        temperature = float(bridge.heads.temperature)
        order = slow_order(cosine[row].tolist(), logits[row].tolist(), temperature, ranking)
        first = next(place for place, column in enumerate(order) if right[row, column])
        places.append(1 + sum(not right[row, column] for column in order[:first]))
    return places


@pytest.mark.parametrize("ranking", RANKINGS, ids=["no weight", "log odds", "original"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_places_are_the_slow_oracles(scene, direction, ranking):
    bridge, batch, found = scene
    looked = match_shortlists(bridge, batch.vision.split(4), found, size=3)
    (places,) = looked.places(found, direction, [ranking])
    assert places.tolist() == slow_places(bridge, batch, found, direction, ranking)


def test_without_weight_the_order_is_itcs_and_with_it_another(scene):
    bridge, batch, found = scene
    looked = match_shortlists(bridge, [batch.vision], found, size=16)  # more than there are
    alone, weighted = looked.places(found, "text_to_image", [Ranking(0.0), Ranking(5.0)])
    assert torch.equal(alone, itc_ranks(found, "text_to_image")) and not torch.equal(alone, weighted)


def test_a_pair_on_both_shortlists_is_looked_at_once(scene, monkeypatch):
    bridge, batch, found = scene
    rows, fuse = [], bridge.qformer.fuse
    monkeypatch.setattr(bridge.qformer, "fuse", lambda text, memory: rows.append(len(text.ids)) or fuse(text, memory))
    match_shortlists(bridge, [rows_of(batch, slice(0, 6)).vision], found, size=16)
    assert sum(rows) == 6 * 9


def test_the_weight_is_chosen_by_r1_then_r5_then_the_smaller():
    grid = {0.0: {"R@1": 50.0, "R@5": 80.0}, 0.25: {"R@1": 52.0, "R@5": 80.0}, 1.0: {"R@1": 52.0, "R@5": 79.0}}
    assert choose_weight(grid) == 0.25
    assert choose_weight({**grid, 2.0: {"R@1": 52.0, "R@5": 81.0}}) == 2.0
    assert choose_weight({**grid, 0.5: {"R@1": 52.0, "R@5": 80.0}}) == 0.25
    assert choose_weight({0.5: grid[0.0], 0.0: grid[0.0]}) == 0.0

"""Re-ranking by literal numbers, and a shortlist's logits against a slow oracle that fuses one pair at a time."""

import pytest
import torch

from bridges import tiny_batch, tiny_bridge
from isthmus.models import ranking as module
from isthmus.models.ranking import Ranking, combine, match_logits, match_pairs, rerank, shortlist
from isthmus.qformer.masks import bidirectional
from isthmus.records import Text


def test_both_rules_by_hand():
    cosine, logits = torch.tensor([0.3, 0.1]), torch.tensor([[1.0, 3.0], [2.0, -2.0]])
    log_odds = combine(cosine, logits, temperature=0.1, ranking=Ranking(weight=0.5))
    assert torch.allclose(log_odds, torch.tensor([3.0 + 0.5 * 2, 1.0 - 0.5 * 4]))
    alone = combine(cosine, logits, temperature=0.1, ranking=Ranking(weight=0.0))
    assert torch.allclose(alone, torch.tensor([3.0, 1.0]))
    original = combine(cosine, logits, temperature=0.1, ranking=Ranking(rule="original"))
    assert torch.allclose(original, torch.tensor([3.3, -1.9]))


def test_only_the_shortlist_is_put_in_a_new_order():
    cosine = torch.tensor([[0.1, 0.5, 0.4, 0.3], [0.9, 0.2, 0.1, 0.8]])
    candidates = shortlist(cosine, 2)
    assert candidates.tolist() == [[1, 2], [0, 3]]
    logits = torch.tensor([[[0.0, -50.0], [0.0, 50.0]], [[0.0, 0.0], [0.0, 0.0]]])
    scores = rerank(cosine, candidates, logits, temperature=0.1, ranking=Ranking(weight=1.0))
    assert scores.argsort(dim=1, descending=True).tolist() == [[2, 1, 3, 0], [0, 3, 1, 2]]
    kept = rerank(cosine, candidates, logits, temperature=0.1, ranking=Ranking(weight=0.0))
    assert torch.equal(kept.argsort(dim=1), cosine.argsort(dim=1))


def test_equal_scores_stay_equal_and_what_is_no_number_stays_none():
    cosine, logits = torch.full((1, 3), 0.5), torch.ones(1, 2, 2)
    scores = rerank(cosine, torch.tensor([[0, 1]]), logits, temperature=0.1, ranking=Ranking())
    assert scores[0, 0] == scores[0, 1] > scores[0, 2]
    lost = rerank(cosine, torch.tensor([[0, 1]]), logits * torch.nan, temperature=0.1, ranking=Ranking())
    assert bool(lost[0, :2].isnan().all())


def test_a_shortlist_is_never_longer_than_what_there_is():
    assert shortlist(torch.rand(3, 4), 16).shape == (3, 4)


def slow_logits(bridge, batch, image, text):
    """One pair by the plain definition, its text unpadded: figure 2 under the bidirectional mask."""
    length = int(batch.text.mask[text].sum())
    words = Text(batch.text.ids[text : text + 1, :length], batch.text.mask[text : text + 1, :length])
    states = bridge.qformer(words, bidirectional(2, words.mask), batch.vision[image : image + 1]).queries
    return bridge.heads.match(states).mean(dim=1)[0]


@pytest.mark.parametrize("rows", [256, 3], ids=["one piece", "pieces"])
def test_any_pairs_in_any_pieces_are_the_slow_oracles(monkeypatch, rows):
    monkeypatch.setattr(module, "_ROWS", rows)
    bridge, batch = tiny_bridge().eval(), tiny_batch((5, 3, 4, 6, 2))
    pairs = torch.tensor([[4, 0], [0, 0], [0, 4], [3, 1], [0, 2], [0, 3], [4, 4], [1, 1]])  # image 2 has none
    with torch.no_grad():
        slow = torch.stack([slow_logits(bridge, batch, int(i), int(t)) for i, t in pairs])
    found = match_pairs(bridge, batch.vision.split(2), batch.text, pairs)
    assert found.dtype == torch.float32
    assert torch.allclose(found, slow.float(), atol=1e-6)


def test_each_images_memory_is_made_once(monkeypatch):
    bridge, batch, made = tiny_bridge().eval(), tiny_batch(), []
    project = bridge.qformer.memory.project
    monkeypatch.setattr(bridge.qformer.memory, "project", lambda patches: made.append(len(patches)) or project(patches))
    match_pairs(bridge, batch.vision.split(3), batch.text, torch.cartesian_prod(torch.arange(4), torch.arange(4)))
    assert made == [3, 1]


def test_row_r_pairs_image_r_with_text_r():
    bridge, batch = tiny_bridge().eval(), tiny_batch()
    memory = bridge.qformer.encode_image(batch.vision).memory
    with torch.no_grad():
        slow = torch.stack([slow_logits(bridge, batch, row, row) for row in range(4)])
        assert torch.allclose(match_logits(bridge, memory, batch.text), slow)

"""Recall by hand and against a slow oracle; ties earn nothing; the same thing counts as right."""

import pytest
import torch

from bridges import rows_of, tiny_batch, tiny_bridge
from isthmus.records import Identity
from isthmus.tasks.retrieval import Embedded, embed, recall, retrieval


def test_by_hand():
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.7, 0.6], [0.1, 0.2, 0.0]])
    # ranks of the right ones, from 1: 1, 2, 3
    assert recall(similarity, torch.eye(3) > 0) == {"R@1": pytest.approx(100 / 3), "R@5": 100.0, "R@10": 100.0}


def test_the_k_first_and_no_more():
    right = torch.zeros(1, 12) > 0
    right[0, 0] = True
    for rank in range(1, 12):
        similarity = torch.arange(12.0, 0.0, -1.0)[None]  # the wrong ones score 11 to 1
        similarity[0, 0] = 12.5 - rank  # `rank - 1` of them stand before the right one
        found = recall(similarity, right)
        assert found == {f"R@{k}": 100.0 * (rank <= k) for k in (1, 5, 10)}, rank


def slow_recall(similarity, right, k):
    """Sort each row, wrong before right where scores are equal."""
    hits = 0
    for scores, good in zip(similarity.tolist(), right.tolist(), strict=True):
        order = sorted(range(len(scores)), key=lambda column: (-scores[column], good[column]))
        hits += any(good[column] for column in order[:k])
    return 100 * hits / len(similarity)


@pytest.mark.parametrize("seed", range(5))
def test_the_slow_oracle_with_ties_and_several_right_answers(seed):
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randint(0, 8, (25, 25), generator=generator) / 8
    right = (torch.rand(25, 25, generator=generator) < 0.05) | (torch.eye(25) > 0)
    found = recall(similarity, right)
    assert found == {f"R@{k}": pytest.approx(slow_recall(similarity, right, k)) for k in (1, 5, 10)}


def test_equal_scores_earn_nothing_and_neither_do_scores_that_are_no_numbers():
    right = torch.eye(12) > 0
    nothing = {"R@1": 0.0, "R@5": 0.0, "R@10": 0.0}
    assert recall(torch.zeros(12, 12), right) == nothing
    assert recall(torch.full((12, 12), torch.nan), right) == nothing
    assert recall(torch.eye(12).masked_fill(~right, torch.nan), right) == nothing


def embedded(images, captions):
    """Three pictures of two queries in two dimensions; texts 0 and 1 point the wrong way round."""
    features = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.0, -1.0]], [[-1.0, 0.0], [-0.6, 0.8]]])
    texts = torch.tensor([[0.0, -1.0], [1.0, 0.0], [-1.0, 0.0]])
    return Embedded(features, texts, ("a", "b", "c"), Identity(torch.tensor(images), torch.tensor(captions)))


def test_similarity_is_the_best_of_the_queries():
    by_hand = torch.tensor([[0.0, 1.0, -0.6], [1.0, 0.0, 0.0], [0.0, -0.6, 1.0]])
    assert torch.allclose(embedded([1, 2, 3], [1, 2, 3]).similarity(), by_hand)


@pytest.mark.parametrize(
    ("images", "captions", "right"),
    [([1, 2, 3], [1, 2, 3], 1 / 3), ([1, 1, 3], [1, 2, 3], 1.0), ([1, 2, 3], [5, 5, 3], 1.0)],
    ids=["different", "same picture", "same caption"],
)
def test_same_thing_rows_are_right_answers_both_ways(images, captions, right):
    found = retrieval(embedded(images, captions))
    assert found["candidates"] == 3
    assert found["text_to_image"]["R@1"] == found["image_to_text"]["R@1"] == pytest.approx(100 * right)


def test_embedding_keeps_the_sources_order_over_batches():
    bridge, whole = tiny_bridge().eval(), tiny_batch((5, 3, 4, 6), images=[4, 5, 5, 7])
    parts = [rows_of(whole, slice(0, 3)), rows_of(whole, slice(3, 4))]
    found = embed(bridge, parts, torch.device("cpu"))
    states = bridge.qformer.encode_image(whole.vision).states
    assert torch.allclose(found.images, bridge.image_features(states).float(), atol=1e-6)
    assert torch.allclose(found.texts, bridge.text_features(bridge.qformer.encode_text(whole.text)).float(), atol=1e-6)
    assert found.captions == whole.captions
    assert found.identity.image.tolist() == [4, 5, 5, 7]
    assert found.same()[1].tolist() == [False, True, True, False]

"""Recall and ranks by hand and against the slow full matrix; ties earn nothing; the same thing counts as right."""

import pytest
import torch

from bridges import rows_of, tiny_batch, tiny_bridge
from captioned import Captioned, tokenize
from isthmus.records import Identity, Text
from isthmus.tasks import retrieval as module
from isthmus.tasks.retrieval import DIRECTIONS, Embedded, embed, itc_ranks, ranks, recalls


def test_by_hand():
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.7, 0.6], [0.1, 0.2, 0.0]])
    assert ranks(similarity, torch.eye(3) > 0).tolist() == [1, 2, 3]


def test_the_best_right_answer_counts_and_other_right_ones_take_no_place():
    right = torch.tensor([[False, True, True, False]])
    assert ranks(torch.tensor([[0.5, 0.4, 0.9, 0.1]]), right).tolist() == [1]
    assert ranks(torch.tensor([[0.9, 0.4, 0.3, 0.1]]), right).tolist() == [2]


def test_recall_mean_and_median_by_hand():
    found = recalls(torch.tensor([1, 2, 5, 6, 10, 30]))
    expected = {"R@1": 100 / 6, "R@5": 50.0, "R@10": 500 / 6, "mean_rank": 9.0, "median_rank": 5.5}
    assert found == pytest.approx(expected)


def slow_ranks(similarity, right):
    """Sort each row, wrong before right where scores are equal; wrong answers before the first right one, and one."""
    found = []
    for scores, good in zip(similarity.tolist(), right.tolist(), strict=True):
        order = sorted(range(len(scores)), key=lambda column: (-scores[column], good[column]))
        found.append(next(place for place, column in enumerate(order, start=1) if good[column]))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_slow_oracle_with_ties_and_several_right_answers(seed):
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randint(0, 8, (25, 25), generator=generator) / 8
    right = (torch.rand(25, 25, generator=generator) < 0.05) | (torch.eye(25) > 0)
    assert ranks(similarity, right).tolist() == slow_ranks(similarity, right)


def test_equal_scores_earn_nothing_and_neither_do_scores_that_are_no_numbers():
    right = torch.eye(12) > 0
    last = [12] * 12
    assert ranks(torch.zeros(12, 12), right).tolist() == last
    assert ranks(torch.full((12, 12), torch.nan), right).tolist() == last
    assert ranks(torch.eye(12).masked_fill(~right, torch.nan), right).tolist() == last


def embedded(images, captions, owner=(0, 1, 2)):
    """Three pictures of two queries in two dimensions; texts 0 and 1 point the wrong way round."""
    features = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.0, -1.0]], [[-1.0, 0.0], [-0.6, 0.8]]])
    texts = torch.tensor([[0.0, -1.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])[: len(owner)]
    words = Text(torch.ones(len(owner), 1, dtype=torch.long), torch.ones(len(owner), 1, dtype=torch.bool))
    identity = Identity(torch.tensor(images), torch.tensor(captions))
    return Embedded(features, texts, words, tuple("abcd"[: len(owner)]), torch.tensor(owner), identity)


def test_similarity_is_the_best_of_the_queries():
    by_hand = torch.tensor([[0.0, 1.0, -0.6], [1.0, 0.0, 0.0], [0.0, -0.6, 1.0]])
    assert torch.allclose(embedded([1, 2, 3], [1, 2, 3]).similarity(), by_hand)


@pytest.mark.parametrize(
    ("images", "captions", "right"),
    [([1, 2, 3], [1, 2, 3], [3, 2, 1]), ([1, 1, 3], [1, 2, 3], [1, 1, 1]), ([1, 2, 3], [5, 5, 3], [1, 1, 1])],
    ids=["different", "same picture", "same caption"],
)
def test_same_thing_rows_are_right_answers_both_ways(images, captions, right):
    found = embedded(images, captions)
    assert itc_ranks(found, "text_to_image").tolist() == right
    assert sorted(itc_ranks(found, "image_to_text").tolist()) == sorted(right)


def test_several_captions_of_a_picture_are_all_right_and_all_asked():
    found = embedded([1, 2, 3, 3], [1, 2, 3, 4], owner=(0, 1, 2, 2))
    assert found.same().tolist() == [
        [True, False, False, False],
        [False, True, False, False],
        [False, False, True, True],
    ]
    assert found.count("text_to_image") == 4 and found.count("image_to_text") == 3
    assert found.pictured("text_to_image").tolist() == [1, 2, 3, 3] and found.pictured("image_to_text").tolist() == [
        1,
        2,
        3,
    ]
    # text 3 is (0, 1): picture 1 has that very query (cosine 1), pictures 0 and 2 both reach 0.8
    assert itc_ranks(found, "text_to_image").tolist() == [3, 2, 1, 3]
    # picture 1 finds texts 0 and 3 before all others; its own, text 1, is as far as text 2
    assert itc_ranks(found, "image_to_text").tolist() == [3, 4, 1]


def test_a_caption_shared_by_one_of_several_makes_pictures_the_same_thing():
    found = embedded([1, 2, 3, 3], [7, 2, 3, 7], owner=(0, 1, 2, 2))
    assert found.same().tolist() == [[True, False, False, True], [False, True, False, False], [True, False, True, True]]


def random_set(seed, pictures=70):
    """Pictures with one to three captions; some share a thing, some captions are equal."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.arange(pictures).repeat_interleave(torch.randint(1, 4, (pictures,), generator=generator))
    things = torch.randint(0, pictures * 4 // 5, (pictures,), generator=generator)
    images = torch.nn.functional.normalize(torch.randn(pictures, 2, 4, generator=generator), dim=-1)
    texts = torch.nn.functional.normalize(torch.randn(len(owner), 4, generator=generator), dim=-1)
    identity = Identity(things[owner], torch.randint(0, 60, (len(owner),), generator=generator))
    words = Text(torch.ones(len(owner), 1, dtype=torch.long), torch.ones(len(owner), 1, dtype=torch.bool))
    return Embedded(images, texts, words, tuple(map(str, range(len(owner)))), owner, identity)


def full_matrix(found):
    """The slow way: every picture with every text, one by one."""
    right = torch.zeros(len(found.images), len(found.texts), dtype=torch.bool)
    for picture in range(len(found.images)):
        own = [k for k, owner in enumerate(found.owner.tolist()) if owner == picture]
        for text in range(len(found.texts)):
            right[picture, text] = any(
                found.identity.image[k] == found.identity.image[text]
                or found.identity.caption[k] == found.identity.caption[text]
                for k in own
            )
    cosine = torch.einsum("iqe,te->itq", found.images, found.texts).amax(dim=-1)
    return cosine, right


@pytest.mark.parametrize("seed", range(3))
def test_in_pieces_it_is_the_slow_full_matrix(seed):
    found = random_set(seed)
    cosine, right = full_matrix(found)
    assert torch.equal(found.same(), right) and torch.allclose(found.similarity(), cosine, atol=1e-6)
    assert itc_ranks(found, "image_to_text").tolist() == slow_ranks(cosine, right)
    assert itc_ranks(found, "text_to_image").tolist() == slow_ranks(cosine.T, right.T)
    for direction in DIRECTIONS:
        assert sum(len(rows) for rows, _ in found.pieces(direction)) == found.count(direction) > module._QUERIES


def test_embedding_keeps_the_sources_order_and_every_caption(monkeypatch):
    monkeypatch.setattr(module, "_TEXTS", 2)
    bridge, whole = tiny_bridge().eval(), tiny_batch()
    parts = [rows_of(whole, slice(0, 3)), rows_of(whole, slice(3, 4))]
    source = Captioned([("abc", "a"), ("b",), ("  a ",), ("abcdef", "c", "d")], ["x", "y", "y", "z"])
    found = embed(bridge, parts, source, tokenize=tokenize, device=torch.device("cpu"))
    states = bridge.qformer.encode_image(whole.vision).states
    assert torch.allclose(found.images, bridge.image_embeddings(states).float(), atol=1e-6)
    assert found.captions == ("abc", "a", "b", "a", "abcdef", "c", "d")
    slow = [bridge.text_embeddings(bridge.qformer.encode_text(tokenize([caption])))[0] for caption in found.captions]
    assert torch.allclose(found.texts, torch.stack(slow).float(), atol=1e-6)
    assert found.owner.tolist() == [0, 0, 1, 2, 3, 3, 3]
    assert found.same()[0].tolist() == [True, True, False, True, False, False, False]
    assert found.same()[1].tolist() == [False, False, True, True, False, False, False]
    assert found.same()[2].tolist() == [False, True, True, True, False, False, False]

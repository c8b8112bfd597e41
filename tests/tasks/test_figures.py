"""The figures of an evaluation: what each is made of, by small sets that can be read."""

import json

import pytest
import torch

from captioned import tokenize
from isthmus.models.ranking import Ranking
from isthmus.records import Identity
from isthmus.tasks.caption import Caption
from isthmus.tasks.figures import GAP, caption_figures, in_a_line, itc_figures, reranked_figures, weight_grid
from isthmus.tasks.rerank import GRID, Shortlists
from isthmus.tasks.retrieval import DIRECTIONS, Embedded, itc_ranks, recalls

SCORES = {"R@1", "R@5", "R@10", "mean_rank", "median_rank"}


@pytest.fixture
def embedded():
    """Three pictures and texts on a circle; by ITC text 0 finds picture 1 first, the others their own."""
    images = torch.tensor([[[1.0, 0.0]], [[0.8, 0.6]], [[0.0, 1.0]]])
    texts = torch.tensor([[0.96, 0.28], [0.8, 0.6], [0.0, 1.0]])
    words = tokenize(["a", "b", "c"])
    numbers = torch.arange(3)
    return Embedded(images, texts, words, ("a", "b", "c"), numbers, Identity(numbers, numbers))


@pytest.fixture
def shortlists(embedded):
    """All candidates on every shortlist; ITM knows which pair is right: log-odds of 1 there, of -1 elsewhere."""
    candidates = {direction: torch.arange(3).expand(3, 3) for direction in DIRECTIONS}
    logits = torch.stack([torch.zeros(3, 3), 2 * torch.eye(3) - 1], dim=-1)
    return Shortlists(candidates, dict.fromkeys(DIRECTIONS, logits), 0.1)


def test_itc_alone(embedded):
    figures = itc_figures(embedded, seed=0)
    assert set(figures) == {*DIRECTIONS, "candidates", "texts", "confidence"}
    assert figures["candidates"] == figures["texts"] == 3
    for direction in DIRECTIONS:
        assert figures[direction] == recalls(itc_ranks(embedded, direction))
        bounds = figures["confidence"][direction]
        assert set(bounds) == set(figures[direction]) == SCORES
        assert all(bounds[name][0] <= figures[direction][name] <= bounds[name][1] for name in SCORES)
    json.dumps(figures)


def test_all_three_are_reported_and_what_the_ranking_gains(embedded, shortlists):
    hard = Embedded(embedded.images, embedded.texts.flip(0), *list(vars(embedded).values())[2:])
    figures = reranked_figures(hard, shortlists, Ranking(weight=50.0), seed=0)
    before = itc_figures(hard, seed=0)["text_to_image"]
    assert before["R@1"] == pytest.approx(100 / 3)
    assert figures["reranked"]["text_to_image"]["R@1"] == figures["original_sum"]["text_to_image"]["R@1"] == 100.0
    assert figures["confidence"]["reranked"]["text_to_image"]["R@1"] == [100.0, 100.0]
    gained = figures["confidence"]["gain"]["text_to_image"]
    assert gained["R@5"] == [0.0, 0.0]
    assert gained["R@1"][0] <= 200 / 3 <= gained["R@1"][1] == 100.0
    json.dumps(figures)


def test_the_grid_holds_every_weight_and_zero_is_itc_alone(embedded, shortlists):
    grid = weight_grid(embedded, shortlists, Ranking(rule="original"))
    assert tuple(grid) == GRID
    assert grid[0.0] == {way: recalls(itc_ranks(embedded, way)) for way in DIRECTIONS}
    hard = Embedded(embedded.images, embedded.texts.flip(0), *list(vars(embedded).values())[2:])
    level = Shortlists(shortlists.candidates, shortlists.logits, 1.0)
    found = [both["text_to_image"]["R@1"] for both in weight_grid(hard, level, Ranking()).values()]
    assert found[0] == pytest.approx(100 / 3) and found[-1] == 100.0


def test_captions_right_exactly_and_in_normal_form():
    said = [("a cat", "a cat"), ("The cat", "cat"), ("dog", "cow"), ("Cow", "cow")]
    captions = [Caption(text, (true, "something else"), str(n)) for n, (text, true) in enumerate(said)]
    figures = caption_figures(captions, seed=0)
    assert (figures["exact_match"], figures["normalised_match"], figures["pictures"]) == (50.0, 75.0, 4)
    assert figures["captions"] == said
    low, high = figures["confidence"]["exact_match"]
    assert low == 0.0 and high == 100.0
    json.dumps(figures)


def test_while_training_an_evaluation_is_one_line():
    both = {"text_to_image": {"R@1": 55.44, "R@5": 87.7}, "image_to_text": {"R@1": 53.8, "R@5": 86.0}}
    assert in_a_line({**both, "exact_match": 30.0}) == (
        "text to image R@1 55.4, R@5 87.7; image to text R@1 53.8, R@5 86.0; 30.0 % of captions exact"
    )
    assert in_a_line({"loss": {"right": 2.41, "shuffled": 6.0, "gap": 3.59}, "exact_match": 12.5}) == (
        f"loss 2.41 with the right pictures, 6.00 with shuffled ones, gap 3.59 nats, 12.5 % of captions exact. {GAP}"
    )

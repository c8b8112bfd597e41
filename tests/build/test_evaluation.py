"""A bridge's scorer: which ranking it uses, what it leaves out in training, and how often it goes through the rows."""

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from bridges import SIZES, redraw
from fakes import tiny_bert_folder
from isthmus.build.chosen_ranking import ChosenRanking
from isthmus.build.data import Looks
from isthmus.build.evaluation import Evaluation
from isthmus.build.precision import Compute
from isthmus.language.llm import Decoding
from isthmus.models.bridge import Bridge
from isthmus.models.ranking import Ranking
from isthmus.models.stage1 import Stage1
from isthmus.qformer.tokenizer import QFormerTokenizer
from isthmus.records import BridgeSizes, Example
from isthmus.tasks.rerank import GRID

CAPTIONS = [("a cat", "cat"), ("a dog",), ("red fish",), ("a bird",), ("cat",), ("blue dog", "a dog", "dog")]


class Pictures:
    """Six examples of one to three captions."""

    def __len__(self):
        return len(CAPTIONS)

    def __getitem__(self, index):
        return Example(Path(f"{index}.png"), str(index), CAPTIONS[index])


def look(example, index, epoch):
    """Patches that are a function of the row."""
    return torch.randn(4, SIZES["vision_width"], generator=torch.Generator().manual_seed(index))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    tokenizer = QFormerTokenizer(tiny_bert_folder(tmp_path_factory.mktemp("bert")))
    bridge = Bridge(BridgeSizes(**{**SIZES, "vocabulary": tokenizer.vocabulary})).eval()
    redraw(bridge)
    with torch.no_grad():
        bridge.heads.temperature.fill_(0.2)
    passes = []
    looks = Mock(spec=Looks)
    looks.patches.side_effect = lambda rows: (passes.append(1) or batch for batch in rows)
    compute = Compute(torch.device("cpu"), torch.float32)
    decoding = Decoding(max_new_tokens=3)
    evaluation = Evaluation(Pictures(), looks, look, tokenizer, compute, 0, None, decoding)
    return Stage1(bridge, dec=tokenizer.dec), evaluation, passes


def with_ranking(evaluation, chosen):
    return Evaluation(**{**vars(evaluation), "chosen": chosen})


def test_in_training_no_shortlist_is_looked_at(scene):
    stage, evaluation, _ = scene
    figures = evaluation.score(stage)
    assert not {"reranked", "original_sum", "ranking", "coco"} & set(figures)
    assert (figures["candidates"], figures["texts"], figures["pictures"]) == (6, 9, 6)


def test_what_is_scored_twice_is_the_same_and_is_told_with_its_ranking(scene):
    stage, evaluation, _ = scene
    chosen = ChosenRanking(Ranking(0.0, "log_odds", 4), "elsewhere")
    figures = with_ranking(evaluation, chosen).score(stage)
    assert figures["ranking"] == {"weight": 0.0, "rule": "log_odds", "shortlist": 4, "chosen_on": "elsewhere"}
    for direction in ("text_to_image", "image_to_text"):  # no weight: ITC's order
        assert figures["reranked"][direction] == figures[direction]
        assert figures["confidence"]["gain"][direction]["R@1"] == [0.0, 0.0]
    assert figures == with_ranking(evaluation, chosen).score(stage)
    bare = evaluation.score(stage)
    assert all(figures[name] == bare[name] for name in bare if name != "confidence")


def test_the_chosen_weight_is_the_grids_best_and_is_what_is_reported(scene):
    stage, evaluation, _ = scene
    figures = evaluation.score(stage, choose_on="these")
    ranking = figures["ranking"]
    assert [row["weight"] for row in ranking["grid"]] == list(GRID)
    (row,) = (row for row in ranking["grid"] if row["weight"] == ranking["weight"])
    assert row["text_to_image"] == figures["reranked"]["text_to_image"]
    assert row["text_to_image"]["R@1"] == max(row["text_to_image"]["R@1"] for row in ranking["grid"])
    assert (ranking["rule"], ranking["shortlist"], ranking["chosen_on"]) == ("log_odds", 16, "these")


def test_rows_are_read_and_encoded_once_for_all_scores(scene):
    stage, evaluation, passes = scene
    passes.clear()
    with_ranking(evaluation, ChosenRanking()).score(stage)
    assert len(passes) == 1  # one batch holds all six


def test_a_stage_is_left_in_evaluation_mode(scene):
    stage, evaluation, _ = scene
    stage.train()
    evaluation.score(stage)
    assert not stage.training

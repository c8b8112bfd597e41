"""What stands on the terminal: three orders with intervals, how the weight was chosen, what the gap means."""

import logging

import pytest

from isthmus.cli import show
from isthmus.cli.show import quiet_libraries, retrieval_table, show_figures, stage2_table
from isthmus.tasks.figures import GAP

RECALLS = {"R@1": 55.4, "R@5": 87.7, "R@10": 93.8, "mean_rank": 3.25, "median_rank": 1.0}
BOTH = {"text_to_image": RECALLS, "image_to_text": {**RECALLS, "R@1": 53.8}}
BOUNDS = {"text_to_image": {"R@1": [52.0, 58.5]}, "image_to_text": {"R@1": [50.1, 57.0]}}
STAGE1 = {
    **BOTH,
    "candidates": 810,
    "texts": 1620,
    "exact_match": 30.0,
    "normalised_match": 32.5,
    "captions": [("fish", "carp")],
    "confidence": BOUNDS,
}
RERANKED = {
    **STAGE1,
    "reranked": {**BOTH, "text_to_image": {**RECALLS, "R@1": 56.7}},
    "original_sum": {**BOTH, "text_to_image": {**RECALLS, "R@1": 40.4}},
    "ranking": {"weight": 0.25, "rule": "log_odds", "shortlist": 16, "chosen_on": None},
    "confidence": {**BOUNDS, "reranked": BOUNDS, "original_sum": BOUNDS},
}
STAGE2 = {
    "loss": {"right": 2.41, "shuffled": 6.0, "gap": 3.59},
    "pictures": 400,
    "exact_match": 12.5,
    "normalised_match": 13.0,
    "captions": [("apple", "carrot")],
    "confidence": {"exact_match": [9.5, 16.0]},
}


@pytest.fixture
def shown(monkeypatch, capsys):
    """Print on a wide terminal; what was printed, with single spaces."""
    monkeypatch.setattr(show.console, "width", 200)

    def shown(printed, *, whole=False):
        show_figures(printed) if whole else show.console.print(printed)
        return " ".join(capsys.readouterr().out.split())

    return shown


@pytest.mark.parametrize(
    "table", [retrieval_table({"unseen artist": RERANKED}), stage2_table({"unseen artist": STAGE2})]
)
def test_a_terminal_of_80_columns_cuts_no_cell(table, monkeypatch, capsys):
    monkeypatch.setattr(show.console, "width", 80)
    show.console.print(table)
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith((" text to", " image to", " unseen artist "))]
    assert "…" not in printed and len(rows) in (1, 6)


def test_itc_alone_then_all_three_orders(shown):
    alone = shown(retrieval_table({"artists": STAGE1}))
    assert "Retrieval, artists: 810 pictures, 1620 texts" in alone and "30.0 % exact" in alone
    assert "text to image ITC 55.4 52.0-58.5 87.7 93.8 3.2 1.0" in alone
    assert "re-ranked" not in alone
    three = shown(retrieval_table({"artists": RERANKED}))
    assert "text to image re-ranked 56.7" in three and "text to image original's sum 40.4" in three
    assert "image to text ITC 53.8 50.1-57.0" in three


def test_figures_of_an_earlier_version_have_no_intervals(shown):
    old = {way: {"R@1": 1.0, "R@5": 2.0, "R@10": 3.0} for way in BOTH}
    assert "text to image ITC 1.0 2.0 3.0 image" in shown(retrieval_table({"a": {**STAGE1, **old, "confidence": {}}}))


@pytest.mark.parametrize(
    ("ranking", "line"),
    [
        ({}, "+ 0.25 x ITM's log-odds, first 16 of each query; the default weight, chosen on no pictures"),
        (
            {"chosen_on": "folder=a", "weight": 1.0},
            "+ 1 x ITM's log-odds, first 16 of each query; the weight was chosen on folder=a",
        ),
        ({"rule": "original"}, "re-ranked: cosine + ITM's logit"),
        (
            {"chosen_on": "folder=a", "grid": [{"weight": 0.1, **BOTH}]},
            "these very pictures, so the re-ranked scores flatter it weight 0.1: text to image R@1 55.4 R@5 87.7",
        ),
    ],
    ids=["default", "chosen", "original", "just chosen"],
)
def test_how_the_weight_was_chosen_is_told(shown, ranking, line):
    assert line in shown({**RERANKED, "ranking": {**RERANKED["ranking"], **ranking}}, whole=True)


def test_the_gap_is_told_with_what_it_means(shown):
    printed = shown(stage2_table({"artists": STAGE2}))
    assert "artists 400 2.41 6.00 3.59 12.5 9.5-16.0" in printed
    assert GAP in printed


def test_captions_and_their_scores(shown):
    scores = {"BLEU-1": 31.25, "CIDEr": 80.0, "pictures": 400, "empty": 2}
    printed = shown({**STAGE2, "coco": scores}, whole=True)
    assert "captions in normal form: 13.0 % right" in printed and "carrot -> apple" in printed
    assert "BLEU-1 31.2, CIDEr 80.0 (x 100; 2 of 400 captions without a word)" in printed
    assert "needs Java" in shown({**STAGE2, "coco": {"missing": "it needs Java"}}, whole=True)


def test_no_figures_show_nothing(shown):
    assert shown({}, whole=True) == ""


@pytest.mark.parametrize("turn", ["first", "second"])
def test_a_command_shows_its_notices_and_no_test_after_it_does(turn):
    log = logging.getLogger("isthmus")
    assert (log.level, log.handlers) == (logging.NOTSET, []), "what the turn before set is gone"
    quiet_libraries()
    quiet_libraries()
    assert log.level == logging.INFO and len(log.handlers) == 1

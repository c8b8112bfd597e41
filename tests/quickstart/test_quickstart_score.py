import json

import pytest

from isthmus.build.chosen_ranking import ChosenRanking
from isthmus.checkpoints.card import model_card
from isthmus.checkpoints.native import CARD, WEIGHTS, read_provenance, write_bridge
from isthmus.checkpoints.sealed import MARKER
from isthmus.quickstart import score
from isthmus.quickstart.logs import read_curves, step_seconds
from isthmus.quickstart.run import Order, Quickstart
from isthmus.quickstart.score import bridge_sums, finished_report, keep_figures, load_ranking, scores_key
from isthmus.quickstart.split import load_split
from isthmus.quickstart.work import Work
from isthmus.records import BridgeFile, BridgeSizes


def trained(folder, **changes):
    quick = Quickstart(Order(folder, Work(None, (3, 2)), **{"seed": 0, "development": False, **changes}), print)
    for stage in (1, 2):
        quick.bridge(stage).mkdir(parents=True, exist_ok=True)
        (quick.bridge(stage) / MARKER).write_text(json.dumps({WEIGHTS: f"hash of {stage}"}))
    return quick


def scored(folder):
    """What scoring leaves behind, as far as the next start looks."""
    quick = trained(folder)
    with quick.phases.run("scores", scores_key(quick)):
        (folder / "report.json").write_text(json.dumps({"bridges": bridge_sums(quick), "seed": 0}))
    return quick


def test_a_report_is_used_again_for_exactly_its_bridges(tmp_path):
    assert finished_report(trained(tmp_path)) is None
    quick = scored(tmp_path)
    assert finished_report(quick)["seed"] == 0
    (quick.bridge(2) / MARKER).write_text(json.dumps({WEIGHTS: "hash of another bridge"}))
    assert finished_report(quick) is None


def test_a_report_is_not_used_for_another_ranking(tmp_path, monkeypatch):
    quick = scored(tmp_path)
    other = {**load_ranking(), "weight": 2.0}
    monkeypatch.setattr(score, "load_ranking", lambda: other)
    assert finished_report(quick) is None


@pytest.mark.parametrize("content", ["{", ""])
def test_a_torn_report_counts_as_none(tmp_path, content):
    quick = scored(tmp_path)
    (tmp_path / "report.json").write_text(content)
    assert finished_report(quick) is None


def test_scores_that_were_stopped_are_not_done(tmp_path):
    quick = scored(tmp_path)
    (tmp_path / "phases.json").write_text(
        json.dumps({"scores": {"key": scores_key(quick), "done": False, "seconds": 1}})
    )
    assert finished_report(trained(tmp_path)) is None


def test_the_ranking_is_one_that_a_folder_can_hold_and_was_chosen_on_the_development_artist():
    ranking = load_ranking()
    order = ChosenRanking.of({"ranking": ranking})
    assert (order.ranking.weight, order.ranking.rule, order.ranking.shortlist) == (ranking["weight"], "log_odds", 16)
    assert order.chosen_on == load_split().development_artist


LOG = """{"time": 1, "start": "an earlier run"}
{"step": 20, "itc": 9.0, "itm": 9.0, "itg": 9.0, "seconds_per_step": 9.0}
{"time": 2, "start": "the last run"}
{"step": 20, "itc": 4.0, "itm": 0.6, "itg": 7.0, "seconds_per_step": 1.0}
{"step": 20, "evaluation": {}}
{"step": 40, "itc": 8.0, "itm": 0.8, "itg": 8.0, "seconds_per_step": 8.0}
{"resume": {"step": 20}}
{"step": 40, "itc": 2.0, "itm": 0.5, "itg": 5.0, "seconds_per_step": 3.0}
{"step": 60, "itc": 1.0, "itm": 0.4, "itg": 3.0, "seconds_per_step": 1.5}
{"step": 80, "itc": 0.5, "it"""


def test_a_log_tells_the_curves_of_its_last_run_and_its_median_step(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text(LOG)
    assert read_curves(log) == {
        "step": [20, 40, 60],
        "itc": [4.0, 2.0, 1.0],
        "itm": [0.6, 0.5, 0.4],
        "itg": [7.0, 5.0, 3.0],
    }
    assert step_seconds(log) == 1.5


def test_the_figures_of_every_set_stand_on_the_bridge_s_card_and_change_no_key(tmp_path):
    quick = Quickstart(Order(tmp_path, Work(None, (3, 2)), 0, development=False), print)
    config = quick.config(1, steps=3).model_dump(mode="json")
    provenance = {"stage": 1, "towers": {}, "config": config, "precision": "float32", "figures": {}}
    write_bridge(BridgeFile(BridgeSizes(4), {}, provenance), quick.bridge(1), card=model_card(provenance))
    assert "None were measured." in (quick.bridge(1) / CARD).read_text()
    before = scores_key(quick)
    figures = {name: {"text_to_image": {"R@1": 50.0}, "captions": [["a", "b"]]} for name in quick.order.held_out}
    keep_figures(quick, 1, figures)
    card = (quick.bridge(1) / CARD).read_text()
    assert "- held out: unseen artist, unseen names\n" in card
    assert "| unseen artist text to image R@1 | 50 |\n| unseen names text to image R@1 | 50 |" in card
    assert "captions" not in read_provenance(quick.bridge(1))["figures"]["unseen names"]
    assert scores_key(quick) == before

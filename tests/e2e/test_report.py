"""From two trained bridges of tiny towers to scores, report.json and its page."""

import json
import shutil

import pytest

from command_line import isthmus, tiny_recipes
from fakes import tiny_siglip_folder
from isthmus.build import workshop
from isthmus.build.workshop import open_workshop
from isthmus.checkpoints.native import read_bridge
from isthmus.config.run import load_config
from isthmus.quickstart.page import write_page
from isthmus.quickstart.run import Order, Quickstart
from isthmus.quickstart.score import finished_report, load_ranking, score
from isthmus.quickstart.work import Work

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A quickstart's folder whose bridges are tiny: pictures by "twemoji", half of them the second set."""
    place = tmp_path_factory.mktemp("world")
    siglip = f"encoder.weights=folder:{tiny_siglip_folder(place / 'siglip')}"
    one, two = tiny_recipes(place)
    assert isthmus("train", one, siglip, f"output={place / 'stage1'}", "train.evaluate_every=null") == 0
    start = f"init.from={place / 'stage1'}"
    assert isthmus("train", two, siglip, start, f"output={place / 'stage2'}", "train.evaluate_every=null") == 0
    pictures = place / "pictures"
    shutil.copytree(pictures, place / "held out" / "pictures" / "twemoji")
    rows = [json.loads(line) for line in (pictures / "metadata.jsonl").read_text().splitlines()]
    lines = [json.dumps({**row, "file_name": f"twemoji/{row['file_name']}"}) for row in rows]
    folder = place / "held out"
    (folder / "pictures" / "unseen-artist.jsonl").write_text("\n".join(lines))
    (folder / "pictures" / "unseen-names.jsonl").write_text("\n".join(lines[:12]))
    for stage in ("stage1", "stage2"):
        (place / stage).rename(folder / stage)
    return folder, load_config(one, [siglip])


def test_each_tower_is_loaded_once_for_all_sets_and_the_page_shows_what_was_found(world, monkeypatch):
    folder, config = world
    quick = Quickstart(Order(folder, Work(None, (6, 6)), seed=0, development=False), print)
    for stage in (1, 2):
        quick.records[stage] = json.loads((folder / f"stage{stage}" / "run.json").read_text())
    loaded, build_llm = [], workshop.build_llm
    monkeypatch.setattr(workshop, "build_llm", lambda *given: loaded.append(given) or build_llm(*given))
    report = score(quick, open_workshop(config))
    assert len(loaded) == 1

    assert report == json.loads((folder / "report.json").read_text())
    assert list(report["retrieval"]) == list(report["language"]) == ["unseen artist", "unseen names"]
    assert [report["retrieval"][name]["candidates"] for name in report["retrieval"]] == [24, 12]
    assert read_bridge(quick.bridge(1)).provenance["ranking"] == load_ranking()
    for hashes in report["tower_hashes"].values():
        assert all(both["before"] == both["after"] for both in hashes.values())
    assert report["curves"]["stage 1"]["step"] == [2, 4, 6]
    assert report["parameters"]["stage 1"].keys() == {"qformer", "heads"}
    assert report["parameters"]["stage 2"].keys() == {"qformer", "projection"}
    assert {"loading stage 1", "stage 2, unseen names"} <= set(report["seconds_of_scores"])
    assert report["seconds"]["scores"] >= 0 and report["peak_memory_gib"]["scores"] > 0

    shown = report["shown"]
    assert len(shown["names"]) == len(shown["drawings"]) == 8 and len(shown["looks"]) == 4
    assert all(sum(look["average"]) == pytest.approx(1, abs=1e-3) and look["side"] == 4 for look in shown["looks"])
    assert sum(shown["captions"]["language model"]["counts"].values()) == 24
    page = write_page(report, folder).read_text()
    assert page.count("<section") == 9 and "re-ranked (λ" in page
    assert finished_report(Quickstart(quick.order, print)) == report

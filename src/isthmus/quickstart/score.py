"""Scores of a quickstart on pictures it never trained on: `report.json`, of which the page is made."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from isthmus.build.chosen_ranking import ChosenRanking
from isthmus.build.going_on import weights_sum
from isthmus.build.load import LoadedRun, load_run
from isthmus.build.workshop import Workshop
from isthmus.checkpoints.native import update_provenance
from isthmus.config.data import SourceConfig
from isthmus.files import write_atomically
from isthmus.quickstart.artists import ARTISTS
from isthmus.quickstart.facts import frozen_parameters, trained_parameters, what_was_done
from isthmus.quickstart.notes import read_notes
from isthmus.quickstart.phases import phase_key
from isthmus.quickstart.run import Quickstart
from isthmus.quickstart.shown import captions_of, found_and_looked
from isthmus.train.tracking import StoreProgress

REPORT = "report.json"
_RANKING = Path(__file__).parent / "ranking.json"


@dataclass
class Clock:
    """Seconds spent in named parts of scoring."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def run(self, name: str) -> Iterator[None]:
        """Time a part."""
        begun = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begun, 1)


def score(run: Quickstart, workshop: Workshop) -> dict[str, Any]:
    """Score both bridges on every held-out set, each loaded once; write `report.json` and return it.

    The figures stand in the bridges' own folders too.
    """
    clock = Clock()
    with run.phases.run("scores", scores_key(run)):
        one, two = _score_stage1(run, workshop, clock), _score_stage2(run, workshop, clock)
        keep_figures(run, 1, one["figures"])
        keep_figures(run, 2, two["figures"])
    report = {
        "bridges": bridge_sums(run),
        **what_was_done(run, workshop),
        "seconds_of_scores": clock.seconds,
        "retrieval": one["figures"],
        "language": two["figures"],
        "parameters": {"frozen": two["frozen"], "stage 1": one["trained"], "stage 2": two["trained"]},
        "shown": {**one["shown"], "captions": {"language model": two["captions"], "Q-Former": one["captions"]}},
        "artwork": [artist.credit for artist in ARTISTS],
    }
    content = json.dumps(report, indent=1) + "\n"
    write_atomically(run.order.folder / REPORT, lambda path: path.write_text(content, encoding="utf-8"))
    written: dict[str, Any] = json.loads(content)  # the page shows what stands in the file
    return written


def finished_report(run: Quickstart) -> dict[str, Any] | None:
    """The report of exactly these two bridges, scored as they would be now, if it is there; else None."""
    if not run.phases.done("scores", scores_key(run)):
        return None
    report = read_notes(run.order.folder / REPORT)
    return report if report is not None and report["bridges"] == bridge_sums(run) else None


def scores_key(run: Quickstart) -> str:
    """What scores depend on: the bridges, the held-out sets and the re-ranking."""
    content = {"bridges": bridge_sums(run), "sets": run.order.held_out, "ranking": load_ranking()}
    return phase_key("scores", content)


def keep_figures(run: Quickstart, stage: int, figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the figures on every held-out set into a bridge's folder, for its card; the captions stay in the report."""
    measured = {name: {key: v for key, v in found.items() if key != "captions"} for name, found in figures.items()}
    update_provenance(run.bridge(stage), {"figures": measured, "scored_on": list(figures)})


def bridge_sums(run: Quickstart) -> dict[str, str | None]:
    """What tells one bridge from another: the sha256 of its weights."""
    return {f"stage {stage}": weights_sum(run.bridge(stage)) for stage in (1, 2)}


def load_ranking() -> dict[str, Any]:
    """The re-ranking of the quickstart: its weight was chosen on the development artist, in a run without it."""
    ranking: dict[str, Any] = json.loads(_RANKING.read_text(encoding="utf-8"))
    return ranking


def _score_stage1(run: Quickstart, workshop: Workshop, clock: Clock) -> dict[str, Any]:
    """Retrieval and the Q-Former's own captions on every set, and what the page shows of the first."""
    result: dict[str, Any] = {"figures": {}}
    for name, loaded, figures in _on_every_set(run, 1, workshop, clock):
        if not result["figures"]:
            with clock.run("what the page shows"):
                result["shown"] = {"set": name, **found_and_looked(loaded)}
                result["captions"] = captions_of(loaded, figures)
            result["trained"] = trained_parameters(loaded.stage)
        result["figures"][name] = figures
    return result


def _score_stage2(run: Quickstart, workshop: Workshop, clock: Clock) -> dict[str, Any]:
    """Loss with right and shuffled pictures and the language model's captions on every set."""
    result: dict[str, Any] = {"figures": {}}
    for name, loaded, figures in _on_every_set(run, 2, workshop, clock):
        if not result["figures"]:
            result["captions"] = captions_of(loaded, figures)
            result["trained"] = trained_parameters(loaded.stage)
            result["frozen"] = frozen_parameters(loaded.stage, workshop)
        result["figures"][name] = figures
    return result


def _on_every_set(
    run: Quickstart, stage: int, workshop: Workshop, clock: Clock
) -> Iterator[tuple[str, LoadedRun, dict[str, Any]]]:
    """A stage's bridge with its towers, loaded once, and its figures on one held-out set after the other."""
    sets = list(run.order.held_out.items())
    with StoreProgress() as progress:
        with clock.run(f"loading stage {stage}"):
            evaluation = {"folder": str(run.order.folder / "pictures"), "metadata": sets[0][1]}
            loaded = load_run(run.bridge(stage), {"data.evaluation": evaluation}, workshop=workshop, progress=progress)
            if stage == 1:
                loaded = _with_ranking(loaded)
        for number, (name, metadata) in enumerate(sets):
            with clock.run(f"stage {stage}, {name}"):
                if number:
                    loaded = loaded.on(SourceConfig(folder=evaluation["folder"], metadata=metadata), progress=progress)
                figures = loaded.evaluate()
            yield name, loaded, figures


def _with_ranking(loaded: LoadedRun) -> LoadedRun:
    """Score with the quickstart's re-ranking, and keep it in the folder, so that whoever loads it ranks alike."""
    ranking = load_ranking()
    if loaded.provenance.get("ranking") != ranking:
        update_provenance(loaded.folder, {"ranking": ranking})
    chosen = ChosenRanking.of({"ranking": ranking})
    return replace(loaded, evaluation=replace(loaded.evaluation, chosen=chosen))

"""`isthmus evaluate`: a run's folder → its scores on held-out pictures."""

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from isthmus.build.load import load_run
from isthmus.build.scored import evaluation_record
from isthmus.cli.show import quiet_libraries, show_figures
from isthmus.config.run import parse_overrides
from isthmus.errors import ConfigError, UserError
from isthmus.files import check_place, write_atomically
from isthmus.models.ranking import Rule
from isthmus.tasks.coco import METRICS
from isthmus.train.tracking import StoreProgress

SCORES = "evaluation.json"


def run_evaluate(
    folder: Path,
    overrides: list[str],
    *,
    choose_ranking: bool = False,
    rule: Rule | None = None,
    metrics: Sequence[str] = (),
    as_json: bool = False,
) -> None:
    """Score a run's bridge and write `evaluation.json` beside it; `coco` stands for all three of its metrics."""
    quiet_libraries()
    if choose_ranking and rule == "original":
        raise ConfigError("--choose-ranking chooses the weight of log_odds, and --ranking original has none; give one")
    check_place(folder / SCORES)
    with StoreProgress() as progress:
        run = load_run(folder, parse_overrides(overrides), progress=progress)
    run = run if rule is None else run.ranked_by(rule)
    asked = [metric for metric in METRICS if metric in metrics or "coco" in metrics]
    figures = run.choose_ranking(metrics=asked) if choose_ranking else run.evaluate(metrics=asked)
    content = json.dumps(evaluation_record(run, figures), indent=2, ensure_ascii=False)
    if as_json:
        typer.echo(content)
    else:
        show_figures(figures)
    path = folder / SCORES
    try:
        write_atomically(path, lambda scratch: scratch.write_text(content + "\n", encoding="utf-8"))
    except OSError as problem:
        raise UserError(
            f"{path} cannot be written ({problem.strerror}); the scores above are all there is"
        ) from problem
    typer.echo(f"written to {path}", err=as_json)

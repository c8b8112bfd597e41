"""`isthmus evaluate`: a run's folder → its scores on held-out pictures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Asked:
    """What a run is scored by; `coco` among the metrics stands for all three, None leaves what is stored or trained."""

    choose_ranking: bool = False
    rule: Rule | None = None
    metrics: Sequence[str] = ()
    num_beams: int = 1
    max_new_tokens: int | None = None


def run_evaluate(folder: Path, overrides: list[str], asked: Asked, *, as_json: bool = False) -> None:
    """Score a run's bridge and write `evaluation.json` beside it."""
    quiet_libraries()
    if asked.choose_ranking and asked.rule == "original":
        raise ConfigError("--choose-ranking chooses the weight of log_odds, and --ranking original has none; give one")
    check_place(folder / SCORES)
    with StoreProgress() as progress:
        run = load_run(folder, parse_overrides(overrides), progress=progress)
    run = run.captioned_by(asked.num_beams, asked.max_new_tokens)
    run = run if asked.rule is None else run.ranked_by(asked.rule)
    metrics = [metric for metric in METRICS if metric in asked.metrics or "coco" in asked.metrics]
    figures = run.choose_ranking(metrics=metrics) if asked.choose_ranking else run.evaluate(metrics=metrics)
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

"""The commands, their help, and how errors are shown: one line for what a user can mend, exit code 2."""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from isthmus.errors import UserError

app = typer.Typer(
    help="Join a frozen image encoder to a frozen language model with a small trained bridge (BLIP-2).",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: loading rich takes longer than all the rest
)
INTERRUPTED = 130

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Values that replace the file's.")
]


@app.command(short_help="Train a bridge: stage 1 or stage 2.")
def train(
    config: Annotated[Path, typer.Argument(help="A YAML file; see recipes/.")], overrides: Overrides = None
) -> None:
    """Train a bridge: stage 1 against text, or stage 2 through a frozen language model.

    Fills the feature store first, where the config names one.

    Example: isthmus train recipes/own-folder-stage1.yaml train.steps=100 train.lr=1e-4
    """
    from isthmus.cli.train import run_train

    run_train(config, overrides or [])


@app.command(short_help="Score a run on held-out pictures.")
def evaluate(
    run: Annotated[Path, typer.Argument(help="The folder of a training run.")], overrides: Overrides = None
) -> None:
    """Score a run on held-out pictures: retrieval (stage 1), or loss and greedy captions (stage 2).

    Example: isthmus evaluate runs/stage1 data.evaluation.folder=pictures data.evaluation.metadata=held-out.jsonl
    """
    from isthmus.cli.evaluate import run_evaluate

    run_evaluate(run, overrides or [])


@app.command(short_help="Guided first run on real pictures.")
def quickstart(
    budget: Annotated[str, typer.Option(help="Time for both stages and all around them, e.g. 15m, 40m, 2h.")] = "15m",
    steps: Annotated[
        str | None, typer.Option(help="Fixed work instead: stage-1 and stage-2 steps, e.g. 360+240.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option(help="Key of every random choice.", min=0)] = 0,
    development: Annotated[
        bool, typer.Option(help="Train without the development artist and score on it alone.")
    ] = False,
) -> None:
    """Guided first run: real pictures, real frozen models, both stages, scored on an artist never seen.

    What is there already is not done again; Ctrl-C loses at most the phase it stopped.
    """
    from isthmus.cli.quickstart import run_quickstart

    run_quickstart(budget, steps, output, seed=seed, development=development)


def main() -> None:
    """Run the command line; what a user can mend becomes one line on stderr."""
    try:
        code = app(
            args=sys.argv[1:] or ["--help"], standalone_mode=False
        )  # typer turns Ctrl-C into the return value 130
    except UserError as problem:
        _end(f"isthmus: {problem}", 2)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as problem:
        if not hasattr(problem, "format_message"):
            raise
        _end(f"isthmus: {problem.format_message()} Try --help.", 2)
    if code == INTERRUPTED:
        _end("isthmus: interrupted; what was saved before is kept", INTERRUPTED)
    sys.exit(code or 0)


def _end(line: str, code: int) -> NoReturn:
    sys.stdout.flush()
    os.write(2, f"{line}\n".encode())
    sys.exit(code)

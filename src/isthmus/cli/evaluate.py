"""`isthmus evaluate`: a run's folder → its scores on held-out pictures."""

import json
from pathlib import Path

from isthmus.build.load import load_run
from isthmus.cli.show import console, quiet_libraries, show_figures
from isthmus.config.run import parse_overrides
from isthmus.errors import UserError
from isthmus.features.files import write_atomically
from isthmus.train.tracking import StoreProgress


def run_evaluate(folder: Path, overrides: list[str]) -> None:
    """Score a run's bridge and write `evaluation.json` beside it."""
    quiet_libraries()
    with StoreProgress() as progress:
        run = load_run(folder, parse_overrides(overrides), progress=progress)
    figures = run.evaluate()
    show_figures(figures)
    path, content = folder / "evaluation.json", json.dumps(figures, indent=2) + "\n"
    try:
        write_atomically(path, lambda scratch: scratch.write_text(content))
    except OSError as problem:
        raise UserError(
            f"{path} cannot be written ({problem.strerror}); the scores above are all there is"
        ) from problem
    console.print(f"written to {path}", markup=False)

"""`isthmus evaluate`: a run's folder → its scores on held-out pictures."""

import json
from pathlib import Path

from isthmus.build.load import load_run
from isthmus.cli.show import console, quiet_libraries, show_figures
from isthmus.train.tracking import StoreProgress


def run_evaluate(folder: Path, overrides: list[str]) -> None:
    """Score a run's bridge and write `evaluation.json` beside it."""
    quiet_libraries()
    with StoreProgress() as progress:
        run = load_run(folder, overrides, progress=progress)
    figures = run.evaluate()
    (folder / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n")
    show_figures(figures)
    console.print(f"written to {folder / 'evaluation.json'}", markup=False)

"""`isthmus train`: config → run."""

from pathlib import Path

from isthmus.build.run import build_training
from isthmus.cli.show import quiet_libraries, show_figures
from isthmus.config.run import load_config
from isthmus.train.tracking import Reporter, StoreProgress


def run_train(path: Path, overrides: list[str]) -> None:
    """Train as a YAML file says."""
    quiet_libraries()
    config = load_config(path, overrides)
    with StoreProgress() as progress:
        training = build_training(config, progress=progress)
    record = training.run()
    show_figures(record["figures"])
    Reporter("", 0).say(f"the bridge is in {Path(config.output) / 'bridge'}")

"""`isthmus train`: config → run, or the two runs of a file of both stages."""

from pathlib import Path

import typer

from isthmus import distributed
from isthmus.build.finished import look_back
from isthmus.build.planned import Planned
from isthmus.build.run import build_training, dry_trainer
from isthmus.build.workshop import Workshop
from isthmus.cli.inputs import say
from isthmus.cli.show import quiet_libraries, show_figures
from isthmus.config.run import RunConfig
from isthmus.config.stages import load_stages
from isthmus.estimate import estimate
from isthmus.train.tracking import StoreProgress


def run_train(path: Path, overrides: list[str], *, stage: int | None = None) -> None:
    """Train as a YAML file says; what was stopped goes on, and of a file of both stages what is done is left."""
    quiet_libraries()
    stages = load_stages(path, overrides, only=stage)
    before: tuple[RunConfig, Workshop] | None = None
    for config in stages.runs:
        if stages.in_turn and look_back(config) == "done":
            say(f"stage {config.stage} is done already: {config.output}")
            continue
        shared = before[1] if before is not None and config.shares_encoder(before[0]) else None
        before = config, _train(config, shared)


def run_estimate(path: Path, overrides: list[str], *, stage: int | None = None) -> None:
    """Say what each run of a YAML file will take, and train nothing; stage 2 goes on from the bridge of stage 1."""
    quiet_libraries()
    before: Planned | None = None
    for config in load_stages(path, overrides, only=stage).runs:
        estimated, before = estimate(config, dry_trainer, before=before)
        for line in estimated.lines():
            typer.echo(line)


def _train(config: RunConfig, workshop: Workshop | None) -> Workshop:
    """One run, with the image encoder of the run before where it is the same."""
    with StoreProgress() as progress:
        training = build_training(config, workshop=workshop, progress=progress)
    record = training.run()
    if distributed.rank() == 0:
        show_figures(record["figures"])
        say(f"the bridge is in {Path(config.output) / 'bridge'}")
    return training.workshop

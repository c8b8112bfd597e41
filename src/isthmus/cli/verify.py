"""`isthmus verify`: a folder of published weights against what was published of them."""

from pathlib import Path

import typer

from isthmus.build.folders import MATCH, Need
from isthmus.cli.inputs import Loading, print_json
from isthmus.errors import CheckpointError
from isthmus.verify import Outcome, checks_of


def run_verify(weights: str, pictures: Path, loading: Loading, *, as_json: bool) -> None:
    """Say of every check what was published and what came out here; raises `CheckpointError` where they differ."""
    outcomes, checks = [], checks_of(weights, pictures)  # before anything is loaded
    predictor = loading.predictor(MATCH if any(check.matches for check in checks) else Need(2, "caption by 'llm'"))
    for outcome in (Outcome(check, check.ask(predictor, pictures / check.picture)) for check in checks):
        outcomes.append(outcome)
        if not as_json:
            _tell(outcome)
    if as_json:
        print_json({"weights": weights, "checks": [_as_json(outcome) for outcome in outcomes]})
    if differing := [outcome for outcome in outcomes if not outcome.agrees]:
        raise CheckpointError(
            f"{len(differing)} of {len(outcomes)} checks differ from what was published of {weights}; see that these "
            "are its weights, in float32, and the pictures those of the checks"
        )


def _tell(outcome: Outcome) -> None:
    check = outcome.check
    typer.echo(f"{check.picture}: {check.what}")
    typer.echo(f"  published  {check.published}")
    typer.echo(f"  here       {outcome.found}  {'agrees' if outcome.agrees else 'DIFFERS'}")


def _as_json(outcome: Outcome) -> dict[str, object]:
    check = outcome.check
    return {
        "picture": check.picture,
        "what": check.what,
        "published": check.published,
        "here": outcome.found,
        "agrees": outcome.agrees,
    }

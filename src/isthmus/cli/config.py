"""`isthmus config`: what a configuration can say, and what one says when it is resolved. No torch here."""

import json

import typer

from isthmus.cli.options import Config, Json, Overrides, Stage

app = typer.Typer(help="What a recipe can say, and what one says with every default filled in.", rich_markup_mode=None)


@app.command(short_help="The JSON Schema of a recipe.")
def schema() -> None:
    """Write the JSON Schema of a recipe to stdout: every key, its type, its limits, its default and what it means.

    It holds for a file of one run and for one of both stages.

    Example: isthmus config schema > isthmus.schema.json
    """
    from isthmus.config.schema import recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2, ensure_ascii=False))


@app.command(short_help="A recipe with every key, its value and meaning.")
def show(
    config: Config,
    overrides: Overrides = None,
    stage: Stage = None,
    as_json: Json = False,
) -> None:
    """Show what a recipe comes to: every key, its value, whether it was given or is the default, what it means.

    With --json, the resolved recipe itself, for a program to read; of a file of both stages, by stage.

    Example: isthmus config show recipes/own-folder.yaml train.lr=1e-4
    """
    from isthmus.config.describe import table
    from isthmus.config.stages import STAGES, load_stages

    stages = load_stages(config, overrides or [], only=stage)
    if as_json:
        resolved = {STAGES[run.stage]: run.model_dump(mode="json") for run in stages.runs}
        whole = resolved if stages.in_turn and stage is None else next(iter(resolved.values()))
        typer.echo(json.dumps(whole, indent=2, ensure_ascii=False))
        return
    typer.echo("\n\n".join(table(run) for run in stages.runs))

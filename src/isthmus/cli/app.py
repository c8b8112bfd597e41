"""The program: what `isthmus` says of itself, and its commands."""

from typing import Annotated

import typer

from isthmus.cli import config as config_commands
from isthmus.cli import making, using
from isthmus.cli.ending import EXIT_CODES

app = typer.Typer(
    help="Join a frozen image encoder to a frozen language model with a small trained bridge (BLIP-2).",
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: loading rich takes longer than all the rest
)
app.add_typer(making.app)
app.add_typer(using.app)
app.add_typer(config_commands.app, name="config", short_help="What a recipe can say, and what one says.")


def _show_version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"isthmus {version('isthmus')}")
        raise typer.Exit
    return wanted


@app.callback()
def isthmus(
    wants_version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Join a frozen image encoder to a frozen language model with a small trained bridge (BLIP-2)."""

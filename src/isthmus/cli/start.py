"""Where the command line starts."""

from isthmus.cli import ending
from isthmus.cli.app import app


def main() -> None:
    """Run the command line; what a user can mend becomes one line on stderr."""
    ending.run(app)

"""Where the command line starts."""

import os

from isthmus.cli import ending
from isthmus.cli.app import app


def main() -> None:
    """Run the command line; what a user can mend becomes one line on stderr."""
    # read by torch when it loads: a step's large tensors then cost a thirtieth of the page faults (docs/log.md)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    ending.run(app)

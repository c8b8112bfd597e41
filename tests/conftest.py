"""Before anything imports a hub client: tests never leave the machine. And what one test logs, none after it does."""

import logging
import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


@pytest.fixture(autouse=True)
def _quiet_again():
    """Take back what a command sets for its whole process (`cli.show.quiet_libraries`), a wider fixture's too."""
    for name in ("isthmus", "accelerate"):
        log = logging.getLogger(name)
        log.setLevel(logging.NOTSET)
        log.handlers.clear()

"""How a command ends where its output cannot be written: one line, the code of wrong input, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_COMMAND = """
import sys
from types import ModuleType
import rich.console, typer
from isthmus.cli import main
from isthmus.errors import ConfigError
def talk(*_, **__):
    {say}
module = ModuleType("isthmus.cli.train")
module.run_train = talk
sys.modules["isthmus.cli.train"] = module
main()
"""
_FULL = "isthmus: the output cannot be written (No space left on device); free space, or send it to another place\n"


def run(*command):
    """A command whose output goes to a full disk; its exit code and what stood on stderr."""
    with Path("/dev/full").open("wb") as full:
        environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # buffered, as in most shells
        done = subprocess.run(
            [sys.executable, *command], stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment
        )
    return done.returncode, done.stderr


@pytest.mark.parametrize("arguments", [("config", "schema"), ("--version",), ("train", "--help")])
def test_a_full_disk_under_the_output_is_one_line(arguments):
    assert run("-m", "isthmus", *arguments) == (2, _FULL)


@pytest.mark.parametrize(
    "say",
    ["typer.echo('x')", "print('x')", "print('x' * 100_000, flush=True)", "rich.console.Console().print('x')"],
)
def test_however_it_is_written(say):
    assert run("-c", _COMMAND.format(say=say), "train", "x.yaml") == (2, _FULL)


def test_what_a_user_can_mend_is_still_told_when_the_output_is_full():
    say = "print('x'); raise ConfigError('no such key')"
    assert run("-c", _COMMAND.format(say=say), "train", "x.yaml") == (2, "isthmus: no such key\n")


def test_another_file_that_is_full_is_a_fault_of_the_program():
    say = "open('/dev/full', 'wb', buffering=0).write(b'x')"
    command = [sys.executable, "-c", _COMMAND.format(say=say), "train", "x.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_a_lost_process_has_a_code_of_its_own_and_nothing_is_tidied_up():
    say = "import atexit; atexit.register(print, 'tidied'); from isthmus.errors import LostProcessError as lost; "
    command = [sys.executable, "-c", _COMMAND.format(say=f"{say}raise lost('it is gone')"), "train", "x.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (4, "", "isthmus: it is gone\n")

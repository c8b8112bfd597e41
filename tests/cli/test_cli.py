"""The command line without torch: help, one line for what a user can mend, exit codes."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import typer

from isthmus.cli import main
from isthmus.cli.app import app
from isthmus.cli.ending import EXIT_CODES
from isthmus.errors import ConfigError
from isthmus.language.llm import Decoding

_HEAVY = "('torch', 'transformers', 'accelerate', 'timm', 'numpy')"
COMMANDS = ("train", "features", "evaluate", "convert", "caption", "ask", "match", "embed", "verify", "quickstart")
_HELP = f"""
import sys
import isthmus
assert not [name for name in {_HEAVY} if name in sys.modules]
from isthmus.cli import main
for arguments in ([], *([command] for command in {COMMANDS})):
    sys.argv = ["isthmus", *arguments, "--help"]
    try:
        main()
    except SystemExit as done:
        assert done.code == 0, done.code
print([name for name in {_HEAVY} if name in sys.modules], file=sys.stderr)
"""


def test_import_and_help_load_no_torch():
    done = subprocess.run([sys.executable, "-c", _HELP], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(command in done.stdout for command in (*COMMANDS, "KEY.SUB=VALUE", "IMAGE_OR_FOLDER"))
    assert all(f"\n    {code:<5}" in done.stdout for code in (0, 1, 2, 3, 4, 130, 141, 143))


def test_the_page_on_commands_has_every_command_and_exit_code():
    page = (Path(__file__).parent.parent.parent / "docs" / "commands.md").read_text()
    codes = [line.split()[0] for line in EXIT_CODES.splitlines()[2:]]
    assert re.findall(r"^\| (\d+) \|", page, flags=re.MULTILINE) == codes
    assert all(f"| `isthmus {command}" in page for command in (*COMMANDS, "config"))


def test_version_is_the_package_s(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["isthmus", "--version"])
    with pytest.raises(SystemExit) as done:
        main()
    assert (done.value.code, capfd.readouterr().out) == (0, f"isthmus {version('isthmus')}\n")


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        (["mat"], ["match"]),
        (["caption", "--exi"], ["--existing"]),
        (["caption", "--existing", ""], ["skip", "overwrite", "append"]),
    ],
)
def test_a_shell_completes(monkeypatch, capfd, words, completions):
    monkeypatch.setenv("_ISTHMUS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(["isthmus", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    monkeypatch.setattr(sys, "argv", ["isthmus"])
    with pytest.raises(SystemExit) as done:
        main()
    assert (done.value.code, capfd.readouterr().out.split()) == (0, completions)


@pytest.mark.parametrize("shell", ["zsh", "fish", "powershell"])
def test_the_other_shells_complete_too(monkeypatch, capfd, shell):
    monkeypatch.setenv("_ISTHMUS_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "isthmus mat")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    monkeypatch.setenv("_TYPER_COMPLETE_WORD_TO_COMPLETE", "mat")
    monkeypatch.setattr(sys, "argv", ["isthmus"])
    with pytest.raises(SystemExit):
        main()
    shown = capfd.readouterr().out
    assert "match" in shown and "embed" not in shown


def test_every_help_has_an_example_that_can_be_typed():
    group = typer.main.get_command(app)
    examples = {}
    for name, command in group.commands.items():
        if name != "config":
            examples[name] = [line.strip() for line in command.epilog.splitlines()[2:]]
            for line in examples[name]:
                program, given, *arguments = shlex.split(line)
                assert (program, given) == ("isthmus", name)
                command.make_context(name, arguments)  # raises for what cannot be parsed
    assert set(examples) == {*COMMANDS} and all(examples.values())


def test_the_defaults_of_decoding_are_those_of_python():
    options = {option.name: option.default for option in typer.main.get_command(app).commands["caption"].params}
    expected = {field.name: field.default for field in fields(Decoding)}
    assert {name: options[name] for name in expected} == expected


def test_python_m_isthmus_is_the_command():
    command = [sys.executable, "-m", "isthmus", "trane"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("isthmus: No such command 'trane'.") and done.stderr.count("\n") == 1


@pytest.fixture
def run(monkeypatch, capfd):
    """Run the command line here; the exit code and what stood on stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["isthmus", *arguments])
        with pytest.raises(SystemExit) as done:
            main()
        return done.value.code, capfd.readouterr().err

    return run


@pytest.fixture
def train(monkeypatch):
    """Put something in the place of `isthmus train`'s work."""

    def train(work):
        module = ModuleType("isthmus.cli.train")
        module.run_train = work
        monkeypatch.setitem(sys.modules, "isthmus.cli.train", module)

    return train


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trane"], "No such command 'trane'"),
        (["train"], "Missing argument"),
        (["train", "a.yaml", "--foo"], "No such option"),
        (["evaluate", "runs/a", "--foo=1"], "No such option"),
        (["quickstart", "--seed", "x"], "Invalid value for '--seed'"),
        (["caption"], "Missing argument"),
        (["caption", "a.png", "--existing", "keep"], "'keep' is not one of 'skip', 'overwrite', 'append'"),
        (["caption", "a.png", "--by", "magic"], "'magic' is not one of 'llm', 'qformer'"),
        (["caption", "a.png", "--batch-size", "0"], "Invalid value for '--batch-size'"),
        (["caption", "a.png", "--num-beams", "few"], "Invalid value for '--num-beams'"),
        (["embed", "a.png"], "Missing option '--output'"),
        (["match", "a.png"], "Missing argument"),
        (["ask", "a.png"], "Missing argument"),
    ],
)
def test_a_wrong_command_line_is_one_line(run, arguments, message):
    code, err = run(*arguments)
    assert code == 2
    assert message in err and err.startswith("isthmus: ") and err.count("\n") == 1


def test_without_a_command_the_help_is_shown(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["isthmus"])
    with pytest.raises(SystemExit) as done:
        main()
    shown = capfd.readouterr()
    assert done.value.code == 0 and shown.err == ""
    assert all(command in shown.out for command in ("train", "evaluate", "quickstart"))


def test_what_a_user_can_mend_is_one_line(run, train):
    def refuse(*_, **__):
        raise ConfigError("a.yaml: the key `stage` is missing; give it a value")

    train(refuse)
    assert run("train", "a.yaml") == (2, "isthmus: a.yaml: the key `stage` is missing; give it a value\n")


def test_ctrl_c_says_so_and_ends_with_130(run, train):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    train(interrupt)
    code, err = run("train", "a.yaml")
    assert code == 130
    assert err.startswith("isthmus: interrupted; ") and err.count("\n") == 1


def test_sigterm_says_so_unwinds_and_ends_with_143(run, train):
    unwound = []

    def wait(*_, **__):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            unwound.append(True)

    train(wait)
    before = signal.getsignal(signal.SIGTERM)
    code, err = run("train", "a.yaml")
    assert (code, unwound) == (143, [True])
    assert err.startswith("isthmus: terminated; ") and err.count("\n") == 1
    assert signal.getsignal(signal.SIGTERM) is before


_FORKS = """
import os, signal, sys, time
from types import ModuleType
def fork(*_, **__):
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(there, b"up")  # a signal that comes before is lost: Python clears what is pending after a fork
    while child == 0:
        time.sleep(0.01)
    os.read(here, 2)
    os.kill(child, signal.SIGTERM)
    print(os.waitpid(child, 0)[1])
module = ModuleType("isthmus.cli.train")
module.run_train = fork
sys.modules["isthmus.cli.train"] = module
from isthmus.cli import main
sys.argv = ["isthmus", "train", "a.yaml"]
main()
"""


def test_sigterm_ends_a_forked_child_without_a_word():
    done = subprocess.run([sys.executable, "-c", _FORKS], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{int(signal.SIGTERM)}\n", "")


_TALKS = """
import sys
from types import ModuleType
import rich.console, typer
def talk(*_, **__):
    for number in range(100_000):
        {say}
module = ModuleType("isthmus.cli.train")
module.run_train = talk
sys.modules["isthmus.cli.train"] = module
from isthmus.cli import main
sys.argv = ["isthmus", "train", "a.yaml"]
main()
"""


@pytest.mark.parametrize("say", ["typer.echo(number)", "print(number)", "rich.console.Console().print(number)"])
def test_a_closed_output_ends_silently_with_141(say):
    command = [sys.executable, "-c", _TALKS.format(say=say)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_another_broken_pipe_is_a_fault_of_the_program(monkeypatch, train):
    def fail(*_, **__):
        raise BrokenPipeError("a worker has gone")

    train(fail)
    monkeypatch.setattr(sys, "argv", ["isthmus", "train", "a.yaml"])
    with pytest.raises(BrokenPipeError, match="a worker has gone"):
        main()


def test_a_name_that_no_encoding_holds_is_told_too(run, train):
    def refuse(*_, **__):
        raise ConfigError("\udcff.png is broken")

    train(refuse)
    assert run("train", "\udcff.png") == (2, "isthmus: \\udcff.png is broken\n")


def test_arguments_reach_the_command_and_success_is_0(run, train):
    given = []
    train(lambda *arguments, **options: given.append((*arguments, options)))
    assert run("train", "a.yaml", "train.lr=1e-4", "output=b", "--stage", "2") == (0, "")
    ((path, overrides, options),) = given
    assert (str(path), overrides, options) == ("a.yaml", ["train.lr=1e-4", "output=b"], {"stage": 2})


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch, train):
    def fail(*_, **__):
        raise ZeroDivisionError

    train(fail)
    monkeypatch.setattr(sys, "argv", ["isthmus", "train", "a.yaml"])
    with pytest.raises(ZeroDivisionError):
        main()

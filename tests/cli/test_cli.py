"""The command line without torch: help, one line for what a user can mend, exit codes."""

import subprocess
import sys
from types import ModuleType

import pytest

from isthmus.cli.app import main
from isthmus.errors import ConfigError

_HEAVY = "('torch', 'transformers', 'accelerate', 'timm', 'numpy')"
_HELP = f"""
import sys
import isthmus
assert not [name for name in {_HEAVY} if name in sys.modules]
from isthmus.cli import main
for arguments in ([], ["train"], ["evaluate"], ["quickstart"]):
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
    assert all(command in done.stdout for command in ("train", "evaluate", "quickstart", "KEY.SUB=VALUE"))


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
    def refuse(*_):
        raise ConfigError("a.yaml: the key `stage` is missing; give it a value")

    train(refuse)
    assert run("train", "a.yaml") == (2, "isthmus: a.yaml: the key `stage` is missing; give it a value\n")


def test_ctrl_c_says_so_and_ends_with_130(run, train):
    def interrupt(*_):
        raise KeyboardInterrupt

    train(interrupt)
    code, err = run("train", "a.yaml")
    assert code == 130
    assert err.startswith("isthmus: interrupted; ") and err.count("\n") == 1


def test_arguments_reach_the_command_and_success_is_0(run, train):
    given = []
    train(lambda *arguments: given.append(arguments))
    assert run("train", "a.yaml", "train.lr=1e-4", "output=b") == (0, "")
    ((path, overrides),) = given
    assert (str(path), overrides) == ("a.yaml", ["train.lr=1e-4", "output=b"])


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch, train):
    def fail(*_):
        raise ZeroDivisionError

    train(fail)
    monkeypatch.setattr(sys, "argv", ["isthmus", "train", "a.yaml"])
    with pytest.raises(ZeroDivisionError):
        main()

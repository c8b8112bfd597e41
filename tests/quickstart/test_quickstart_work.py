"""What a quickstart may be asked for, and that a slip is told before torch is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.errors import ConfigError
from isthmus.quickstart.run import Order, Quickstart
from isthmus.quickstart.work import Work, parse_work


def test_a_budget_and_fixed_steps_are_read():
    assert parse_work("15m", None) == Work(900.0, None)
    assert parse_work("1.5h", None) == Work(5400.0, None)
    assert parse_work("15m", "360+240") == Work(None, (360, 240))


@pytest.mark.parametrize(("budget", "steps", "views"), [("15m", None, 1), ("1h", None, 2), ("15m", "360+240", 2)])
def test_a_short_budget_looks_at_a_picture_once(budget, steps, views):
    work = parse_work(budget, steps)
    order = Order(Path("runs/quickstart"), work, seed=0, development=False)
    for stage in (1, 2):
        features = Quickstart(order, print).config(stage, steps=60).features
        assert features.views == work.views == views
        assert Path(features.folder).name == ("features" if views == 2 else "features-one-view")


@pytest.mark.parametrize(("budget", "steps"), [("15", None), ("m", None), ("0m", None), ("15m", "360"), ("15m", "0+2")])
def test_another_form_is_refused(budget, steps):
    with pytest.raises(ConfigError, match=r"--budget|--steps"):
        parse_work(budget, steps)


_SLIP = """
import sys
from isthmus.cli import main
sys.argv = ["isthmus", "quickstart", *sys.argv[1:]]
try:
    main()
finally:
    print([name for name in ("torch", "transformers", "timm", "numpy") if name in sys.modules])
"""


@pytest.mark.parametrize("slip", [("--budget", "0m"), ("--steps", "360")], ids=str)
def test_a_slip_is_told_without_torch(slip, tmp_path):
    command = [sys.executable, "-c", _SLIP, *slip, "--output", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "[]\n")
    assert done.stderr.startswith(f"isthmus: {slip[0]} is '{slip[1]}'; write ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()

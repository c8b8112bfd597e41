"""One environment for each peer, made here with uv, below `benchmarks/.venvs`: their versions do not go together."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / ".venvs"
CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
_DONE = ".installed"


@dataclass(frozen=True)
class Environment:
    """What is installed: `packages` with all they need, then `alone` without; `constrained` to our own versions."""

    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()
    constrained: bool = False


ENVIRONMENTS = {
    "lavis": Environment(
        packages=(
            "torch==2.15.0",
            "torchvision==0.29.2",
            "transformers==4.26.1",
            "tokenizers==0.13.3",
            "numpy==1.26.4",
            "omegaconf==2.4.0",
            "iopath==0.1.10",
            "pandas==3.0.6",
            "pyyaml==6.0.3",
            "timm==1.0.31",
            "fairscale==0.4.13",
            "safetensors==0.8.0",
        ),
        alone=("salesforce-lavis==1.0.2",),
    ),
    "transformers": Environment(
        packages=("torch", "torchvision", "transformers", "numpy", "safetensors", "pillow"), constrained=True
    ),
    "plot": Environment(packages=("matplotlib==3.11.1",)),
}


def python_of(name: str) -> Path:
    """The Python of an environment, which is made if it is not there as it should be; "" is this one."""
    if not name:
        return Path(sys.executable)
    wanted, folder = ENVIRONMENTS[name], FOLDER / name
    python, stamp = folder / "bin/python", folder / _DONE
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != repr(wanted):
        print(f"making the environment {folder}")
        _uv(["venv", "--quiet", "--clear", "--python", "3.11", str(folder)])
        limits = ["-c", str(CONSTRAINTS)] if wanted.constrained else []
        install = ["pip", "install", "--quiet", "--python", str(python)]
        _uv([*install, *wanted.packages, *limits])
        if wanted.alone:
            _uv([*install, "--no-deps", *wanted.alone])
        stamp.write_text(repr(wanted), encoding="utf-8")
    return python


def _uv(arguments: Sequence[str]) -> None:
    subprocess.run([str(Path(sys.executable).parent / "uv"), *arguments], check=True)

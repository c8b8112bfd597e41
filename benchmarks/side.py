"""One side of a comparison: a process that reads commands as lines of JSON and answers each with one line.

    ready                what it has imported, and how much memory that took; said unasked
    load {folder, ...}   read the common inputs and get ready to work
    step                 one unit of work: an optimizer step, a scoring call, a folder
    probe {dtype}        the rate of a matrix product, right now
    memory               the highest resident memory since the inputs were read, and what of it lives between steps
    quit

A peer's side runs in the peer's environment, so that nothing here imports more than torch.
"""

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # noqa: F401  # an optimizer's first step imports it: code, and counted as such on both sides
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PROBE = (4096, 768, 3072)
"""M, K and N of the product that the rate of the machine is taken from."""
_PACKAGES = ("isthmus", "torch", "transformers", "salesforce-lavis", "accelerate", "numpy")
_PROBES = 5


class Side(ABC):
    """What a side must be able to do; times and memory are taken around it."""

    @abstractmethod
    def load(self, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
        """Read the inputs; what comes back is written into the result, as the losses before the first step."""

    @abstractmethod
    def step(self) -> None:
        """Do one unit of work: the part that is timed."""

    @abstractmethod
    def outcome(self) -> dict[str, Any]:
        """What the last step came to, such as its losses: not timed."""

    def state_bytes(self) -> int:
        """Bytes of weights, gradients and optimizer state: what lives between steps and must."""
        return 0


def serve(side: Side) -> None:
    """Answer commands until told to quit; what libraries print goes to stderr."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    memory = Memory()
    said: dict[str, Any] = {"versions": _versions(), "threads": torch.get_num_threads()}
    for line in chain([""], sys.stdin):
        command = json.loads(line) if line else {"do": "ready"}
        if command["do"] == "quit":
            break
        answers.write(json.dumps(said if not line else _answer(side, memory, command)) + "\n")
        answers.flush()


class Memory:
    """Resident memory: after imports, and the highest while the side worked. What a probe takes is not its own."""

    def __init__(self) -> None:
        self.imports, self.peak, self.exact = _status("VmRSS"), 0, True

    def start(self) -> None:
        """Forget the highest so far; where the kernel does not let us, reading the inputs counts too."""
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            self.exact = False

    def note(self) -> None:
        """Count what was used since."""
        self.peak = max(self.peak, _status("VmHWM"))


def _answer(side: Side, memory: Memory, command: dict[str, Any]) -> dict[str, Any]:
    match command["do"]:
        case "load":
            answer = side.load(Path(command["folder"]), command["options"])
            memory.start()
        case "step":
            answer = _timed(side)
            memory.note()
        case "probe":
            answer = {"gflops": probe(DTYPES[command["dtype"]])}
            memory.start()
        case "memory":
            answer = {"peak": memory.peak, "imports": memory.imports, "exact": memory.exact}
            answer["state"] = side.state_bytes()
        case unknown:
            raise ValueError(f"there is no command {unknown}")
    return answer


def probe(dtype: torch.dtype) -> float:
    """The rate of one linear layer's forward product in GFLOP/s, the best of a few."""
    rows, inner, columns = PROBE
    x, weight = torch.randn(rows, inner, dtype=dtype), torch.randn(columns, inner, dtype=dtype)
    best = float("inf")
    for _ in range(_PROBES):
        begun = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        best = min(best, time.perf_counter() - begun)
    return 2 * rows * inner * columns / best / 1e9


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each storage once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def training_bytes(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Weights, a gradient of every trained one, and the optimizer's state."""
    weights = list(model.parameters())
    gradients = sum(weight.numel() * weight.element_size() for weight in weights if weight.requires_grad)
    state = [value for entry in optimizer.state.values() for value in entry.values() if isinstance(value, Tensor)]
    return tensor_bytes(weights) + gradients + tensor_bytes(state)


def _timed(side: Side) -> dict[str, Any]:
    cpu, begun = time.process_time(), time.perf_counter()
    side.step()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return {"seconds": seconds, "cpu_seconds": cpu, **side.outcome()}


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _status(field: str) -> int:
    """A field of this process's status, in bytes."""
    with Path("/proc/self/status").open(encoding="ascii") as status:
        line = next(line for line in status if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024

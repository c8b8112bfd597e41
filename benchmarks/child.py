"""The orchestrator's end of a side: start its process, tell it what to do, read what it says."""

import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Program:
    """A side as it is started: the Python of its environment, the module, and whether it is isthmus itself."""

    python: Path
    module: str
    ours: bool


class Child:
    """A side's process; use it as a context, so that it never outlives the run."""

    def __init__(self, program: Program, *, threads: int, log: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
        if not program.ours:
            environment.pop("PYTHONPATH", None)
        self.name, self._log, self._errors = program.module, log, log.open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [str(program.python), "-m", program.module],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.ready = self._answer()

    def ask(self, command: str, **more: Any) -> dict[str, Any]:
        """Give a command and wait for the answer; raises `RuntimeError` with the end of its log where it died."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": command, **more}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def load(self, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        """Let it read the common inputs."""
        return self.ask("load", folder=str(folder), options=dict(options))

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            end = self._log.read_text(encoding="utf-8")[-3000:]
            raise RuntimeError(f"{self.name} ended by itself; the end of what it said:\n{end}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            with suppress(BrokenPipeError):
                assert self._process.stdin is not None
                self._process.stdin.write('{"do": "quit"}\n')
                self._process.stdin.close()
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._errors.close()

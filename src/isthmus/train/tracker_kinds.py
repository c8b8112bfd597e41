"""What TensorBoard, Weights & Biases and MLflow need that Accelerate leaves out: how each goes on with its run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NOT_IN_MLFLOW = re.compile(r"[^/\w.\- ]")


@dataclass(frozen=True)
class About:
    """What a tracker is told of a run: the project that it belongs to, its folder, and its configuration."""

    project: str
    folder: Path
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The end of its folder: `own/stage1`."""
        return "/".join(self.folder.absolute().parts[-2:])


class Kind:
    """One kind of tracker; `run` is its own object of a run.

    `keeps_all`: figures of steps after the checkpoint stay, so that one that is told again would stand there twice.
    """

    keeps_all = True

    def options(self, about: About, state: Mapping[str, Any] | None, step: int) -> dict[str, Any]:
        """Settings for its start; `state` is None for a new run, else the run goes on after `step`."""
        raise NotImplementedError

    def state(self, run: Any) -> dict[str, Any]:
        """What finds the run again, as JSON."""
        raise NotImplementedError

    def fail(self, run: Any, *, stopped: bool) -> None:
        """End the run as one that did not come to its end: it was stopped, or it failed."""
        raise NotImplementedError

    def begins_again(self, run: Any) -> bool:
        """Whether a run that goes on holds nothing of what was logged before, and must be told again."""
        return False

    def name(self, figure: str) -> str:
        """A figure's name as this tracker can hold it."""
        return figure


class _TensorBoard(Kind):
    """One folder of event files; a resumed run's file hides the steps of earlier files that it takes again."""

    keeps_all = False

    def options(self, about: About, state: Mapping[str, Any] | None, step: int) -> dict[str, Any]:
        return {} if state is None else {"purge_step": step + 1}

    def state(self, run: Any) -> dict[str, Any]:
        return {}

    def fail(self, run: Any, *, stopped: bool) -> None:
        run.close()


class _WandB(Kind):
    """A run is known by its id. Offline, each process writes a folder of its own, and nothing joins these later."""

    def options(self, about: About, state: Mapping[str, Any] | None, step: int) -> dict[str, Any]:
        again = {} if state is None else {"id": state["id"], "resume": "allow"}
        return {"name": about.name, "dir": str(about.folder), **again}

    def state(self, run: Any) -> dict[str, Any]:
        return {"id": run.id}

    def fail(self, run: Any, *, stopped: bool) -> None:
        run.finish(exit_code=1)

    def begins_again(self, run: Any) -> bool:
        return bool(run.offline)


class _MLflow(Kind):
    """A run is known by its id, and the store keeps every value that it is given."""

    def options(self, about: About, state: Mapping[str, Any] | None, step: int) -> dict[str, Any]:
        return {"run_name": about.name} if state is None else {"run_id": state["run_id"]}

    def state(self, run: Any) -> dict[str, Any]:
        return {"run_id": run.info.run_id}

    def fail(self, run: Any, *, stopped: bool) -> None:
        import mlflow

        mlflow.end_run("KILLED" if stopped else "FAILED")

    def name(self, figure: str) -> str:
        """`R@1` is `R_at_1`: MLflow allows letters, digits and a few signs."""
        return _NOT_IN_MLFLOW.sub("_", figure.replace("@", "_at_"))


KINDS: dict[str, Kind] = {"tensorboard": _TensorBoard(), "wandb": _WandB(), "mlflow": _MLflow()}

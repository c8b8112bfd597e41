"""What TensorBoard, Weights & Biases and MLflow need that Accelerate leaves out: how each goes on with its run."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
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


Holds = Callable[[str, int], bool]
"""Whether a figure, by its name in the tracker, stands there for a step."""


class Kind(ABC):
    """One kind of tracker; `run` is its own object of a run.

    `takes_configuration`: a run that goes on is told it again, and may be told another one.
    """

    takes_configuration = False

    @abstractmethod
    def options(self, about: About, state: Mapping[str, Any] | None, step: int) -> dict[str, Any]:
        """Settings for its start; `state` is None for a new run, else the run goes on after `step`."""

    @abstractmethod
    def state(self, run: Any) -> dict[str, Any]:
        """What finds the run again, as JSON."""

    @abstractmethod
    def holds(self, run: Any, told: Mapping[str, int]) -> Holds:
        """What a run that goes on has; `told` is the last step of each figure in the log, up to the checkpoint."""

    @abstractmethod
    def fail(self, run: Any, *, stopped: bool) -> None:
        """End the run as one that did not come to its end: it was stopped, or it failed."""

    def name(self, figure: str) -> str:
        """A figure's name as this tracker can hold it."""
        return figure


class _TensorBoard(Kind):
    """One folder of event files, each written out at once; a resumed run's file hides later steps of those before."""

    def options(self, about: About, state: Mapping[str, Any] | None, step: int) -> dict[str, Any]:
        return {} if state is None else {"purge_step": step + 1}

    def state(self, run: Any) -> dict[str, Any]:
        return {}

    def holds(self, run: Any, told: Mapping[str, int]) -> Holds:
        return lambda figure, step: step <= told.get(figure, 0)

    def fail(self, run: Any, *, stopped: bool) -> None:
        run.close()


class _WandB(Kind):
    """A run is known by its id, and takes nothing of steps before its last.

    Offline each process writes a folder of its own that begins with nothing, and nothing joins the folders later.
    """

    takes_configuration = True

    def options(self, about: About, state: Mapping[str, Any] | None, step: int) -> dict[str, Any]:
        again = {} if state is None else {"id": state["id"], "resume": "allow"}
        return {"name": about.name, "dir": str(about.folder), **again}

    def state(self, run: Any) -> dict[str, Any]:
        return {"id": run.id}

    def holds(self, run: Any, told: Mapping[str, int]) -> Holds:
        begins = run.starting_step
        return lambda figure, step: step < begins

    def fail(self, run: Any, *, stopped: bool) -> None:
        run.finish(exit_code=1)


class _MLflow(Kind):
    """A run is known by its id, and the store keeps every value that it is given."""

    def options(self, about: About, state: Mapping[str, Any] | None, step: int) -> dict[str, Any]:
        return {"run_name": about.name} if state is None else {"run_id": state["run_id"]}

    def state(self, run: Any) -> dict[str, Any]:
        return {"run_id": run.info.run_id}

    def holds(self, run: Any, told: Mapping[str, int]) -> Holds:
        import mlflow

        client, number = mlflow.MlflowClient(), run.info.run_id
        names = client.get_run(number).data.metrics
        last = {name: max(one.step for one in client.get_metric_history(number, name)) for name in names}
        return lambda figure, step: step <= last.get(figure, 0)

    def fail(self, run: Any, *, stopped: bool) -> None:
        import mlflow

        mlflow.end_run("KILLED" if stopped else "FAILED")

    def name(self, figure: str) -> str:
        """`R@1` is `R_at_1`: MLflow allows letters, digits and a few signs."""
        return _NOT_IN_MLFLOW.sub("_", figure.replace("@", "_at_"))


KINDS: dict[str, Kind] = {"tensorboard": _TensorBoard(), "wandb": _WandB(), "mlflow": _MLflow()}

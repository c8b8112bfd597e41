"""What a run needs beside its config to go on as if it had never stopped, out of a trainer and into another.

Every draw of a step is keyed by its place in the run (DESIGN 5.8), so that no generator's state is needed for a run to
be bit-equal; they are kept all the same, for what a user's own model may draw.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isthmus import distributed
from isthmus.checkpoints.native import WEIGHTS
from isthmus.checkpoints.training import OPTIMIZER, TrainingFile, check_tensors
from isthmus.errors import ConfigError, UserError
from isthmus.train.loop import Trainer

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Snapshot:
    """Copies on the host, which the next step does not change: the bridge, AdamW's moments, generators, the place."""

    bridge: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random: dict[str, Tensor]
    position: dict[str, Any]


def take(trainer: Trainer) -> Snapshot:
    """Copy what a trainer is after its last step; all ranks call it together.

    Raises `UserError` where the bridge holds a number that is not finite: it would take the place of a good one.
    """
    bridge = {name: _copy(tensor) for name, tensor in trainer.bare.bridge.state_dict().items()}
    _refuse_broken(bridge, trainer.done)
    names: dict[Tensor, str] = {parameter: name for name, parameter in trainer.bare.bridge.named_parameters()}
    moments = {
        f"{names[parameter]}.{moment}": _copy(state[moment])
        for parameter, state in trainer.raw_optimizer.state.items()
        for moment in _MOMENTS
    }
    ranks = distributed.gather_objects((_generators(trainer.accelerator.device), trainer.meters.state()))
    generators = {f"{name}.rank{rank}": state for rank, (own, _) in enumerate(ranks) for name, state in own.items()}
    position = {
        "step": trainer.done,
        "scored": trainer.scored,
        "skips": trainer.skips.state(),
        "meters": [meters for _, meters in ranks],
        "processes": len(ranks),
    }
    return Snapshot(bridge, moments, generators, position)


def put_back(trainer: Trainer, file: TrainingFile, folder: Path) -> None:
    """Make a fresh trainer the one that a checkpoint, which lies in `folder`, was taken of.

    With another number of processes, the running means of the first take what the others had, and each rank's
    generators are those of the rank of its number, where there was one.
    Raises `CheckpointError` listing keys and shapes that do not fit the bridge or the optimizer.
    """
    bridge = trainer.bare.bridge
    wanted = {name: tensor.shape for name, tensor in bridge.state_dict().items()}
    check_tensors(file.bridge.tensors, wanted, folder / WEIGHTS)
    bridge.load_state_dict(file.bridge.tensors)
    _put_moments(trainer, file.optimizer, folder / OPTIMIZER)
    _put_generators(file.random, trainer.accelerator.device)
    place = file.position
    trainer.done, trainer.scored = place["step"], place["scored"]
    trainer.skips.load(place["skips"])
    trainer.meters.load(_own(place["meters"]), trainer.accelerator.device)


def refuse_other_batch(position: Mapping[str, Any], *, rows: int, accumulation: int) -> None:
    """Raise `ConfigError` where a run would go on with another global batch: other rows than the unbroken run's."""
    before = (position["rows"], position["accumulation"])
    if before != (rows, accumulation):
        raise ConfigError(
            f"the checkpoint was made with {before[0]} rows in a batch of all {position['processes']} processes and "
            f"{before[1]} batches a step, not {rows} and {accumulation}; set `train.batch_size` to {before[0]} divided "
            f"by the number of processes, and `train.accumulation` to {before[1]}"
        )


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _refuse_broken(tensors: Mapping[str, Tensor], step: int) -> None:
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise UserError(
            f"{broken[0]} is not finite after step {step}, so that nothing was saved; the checkpoint before is "
            "untouched: lower train.lr, and go on from it"
        )


def _put_moments(trainer: Trainer, moments: dict[str, Tensor], path: Path) -> None:
    named: dict[str, nn.Parameter] = dict(trainer.bare.bridge.named_parameters())
    wanted = {
        f"{name}.{moment}": torch.Size() if moment == "step" else parameter.shape
        for name, parameter in named.items()
        if parameter.requires_grad
        for moment in _MOMENTS
    }
    check_tensors(moments, wanted, path)
    for name in {key.rpartition(".")[0] for key in wanted}:
        parameter = named[name]
        trainer.raw_optimizer.state[parameter] = {
            moment: moments[f"{name}.{moment}"].to(parameter.device, copy=True) for moment in _MOMENTS
        }


def _generators(device: torch.device) -> dict[str, Tensor]:
    """The states of every generator of this process."""
    numpy_keys = np.random.get_state(legacy=False)["state"]
    states = {
        "torch": torch.get_rng_state(),
        "python": _bytes(random.getstate()[1]),
        "numpy": _bytes([*numpy_keys["key"].tolist(), numpy_keys["pos"]]),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _put_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    own = {name.partition(".")[0]: state for name, state in _of_rank(states, distributed.rank())}
    if not own:
        return
    torch.set_rng_state(own["torch"])
    random.setstate((3, tuple(_words(own["python"])), None))
    *key, position = _words(own["numpy"])
    np.random.set_state(("MT19937", np.array(key, dtype=np.uint32), position, 0, 0.0))
    if device.type == "cuda" and "cuda" in own:
        torch.cuda.set_rng_state(own["cuda"], device)


def _bytes(words: Sequence[int]) -> Tensor:
    return torch.tensor(words).view(torch.uint8)


def _words(state: Tensor) -> list[int]:
    words: list[int] = state.view(torch.int64).tolist()
    return words


def _of_rank(states: Mapping[str, Tensor], rank: int) -> Iterator[tuple[str, Tensor]]:
    return ((name, state) for name, state in states.items() if name.endswith(f".rank{rank}"))


def _own(meters: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The sums that come to this rank: its own, and the first takes all where the number of ranks changed."""
    if len(meters) == distributed.world_size():
        return [meters[distributed.rank()]]
    return meters if distributed.rank() == 0 else []

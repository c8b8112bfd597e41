"""What a run will take, before it runs: its own step is taken in `Shadow`, on tensors without storage.

No formula of the model stands here, so that the figures follow the code: the towers and the bridge are built without
their weights, two optimizer steps are taken by the run's own trainer on batches of the run's own captions, and bytes
are counted as tensors come and go.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isthmus.build.bridge import BuiltBridge
from isthmus.build.data import Tokenize, broken_pictures, open_sources, store_views, training_loader
from isthmus.build.planned import Planned, plan_stage
from isthmus.build.precision import Compute, choose_compute
from isthmus.config.run import RunConfig
from isthmus.data.mixture import Mixture
from isthmus.features.key import Sizes
from isthmus.models.stage1 import Stage1
from isthmus.models.stage2 import Stage2
from isthmus.records import Batch, Example
from isthmus.shadow import Shadow, binary, storage_bytes
from isthmus.vision.encoder import Encoder


@runtime_checkable
class Steps(Protocol):
    """What takes a run's steps."""

    @property
    def raw_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer itself, under whatever prepares it."""

    def step(self, batches: Iterable[Batch], number: int) -> object:
        """Take one optimizer step on micro-batches that have their patches."""


Read = Callable[[Int[Tensor, " R"], Int[Tensor, " R"]], Float[Tensor, "R P V"]]
MakeSteps = Callable[[RunConfig, Stage1 | Stage2, BuiltBridge, Read], Steps]
"""Passed in, since nothing here knows how a run is trained."""

_BATCHES = 32
_WORTH_A_LINE = 1 << 20


@dataclass(frozen=True)
class Store:
    """A feature store's size if no two pictures are alike: pictures, views of each, P, V, bytes of a number."""

    pictures: int
    views: int
    sizes: Sizes
    bytes: int


@dataclass(frozen=True)
class Estimate:
    """Bytes that a run takes on its device, by what takes them.

    `activations` are alive at the end of one micro-batch's forward pass; `gradients`, `optimizer` and `parameters` are
    of what is trained; `others` is what else stays from step to step, such as copies in another dtype. `peak` is the
    most that is alive at one time: less than the sum where gradients come as activations go.
    """

    stage: int
    device: str
    dtype: str
    trained: int
    parameters: int
    towers: dict[str, int]
    store: Store | None
    activations: int
    gradients: int
    optimizer: int
    others: int
    peak: int

    @property
    def resident(self) -> int | None:
        """What the system shows on a CPU, where glibc keeps what was freed: a rule measured in docs/log.md."""
        return self.peak + self.gradients + self.peak // 10 if self.device == "cpu" else None

    def lines(self) -> list[str]:
        """A line for each figure."""
        rows = {
            f"trained: {self.trained:,} parameters": self.parameters,
            **{f"frozen {name}, in {self.dtype}": size for name, size in self.towers.items()},
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            **({"other tensors that stay": self.others} if self.others >= _WORTH_A_LINE else {}),
            "activations of a micro-batch": self.activations,
            "peak of a step, towers included": self.peak,
            **({} if self.resident is None else {"as the system shows it, about": self.resident}),
        }
        width = max(map(len, rows)) + 2
        return [
            f"stage {self.stage} on {self.device}, computing in {self.dtype}:",
            *(f"  {name:<{width}}{binary(size):>10}" for name, size in rows.items() if size),
            self._features(),
        ]

    def _features(self) -> str:
        if self.store is None:
            return "  features: none are stored; every step encodes its pictures"
        store, size = self.store, binary(self.store.bytes)
        return (
            f"  features: {store.pictures} pictures x {store.views} views x {store.sizes.patches} patches x "
            f"{store.sizes.width}: {size} on disk, mapped and not loaded: what of it stays in memory, the system takes "
            "back when others need it"
        )


def estimate(config: RunConfig, make_steps: MakeSteps, *, before: Planned | None = None) -> tuple[Estimate, Planned]:
    """Estimate a run in one process; also gives its stage, as the `before` of one that goes on from it.

    Loads no weights, reads no picture and writes nothing. The text is that of the longest of the run's first batches.
    Raises a `UserError` of some kind for what is wrong with the config, the data or the towers' descriptions.
    """
    compute, sources = choose_compute(config.device, config.precision), open_sources(config)
    planned, shadow = plan_stage(config, sources.train, compute, before=before), Shadow()
    with shadow:
        for module in (planned.encoder, planned.stage):
            shadow.settle(module, compute.device)
        eyes = _Eyes(planned.encoder, shadow, compute, stored=config.features.folder is not None)
    store = _store(config, sources.both(), eyes) if eyes.stored else None
    batches = _batches(config, sources.train, planned.built.tokenizer)
    with shadow:
        begun = shadow.now
        meter = _Meter(shadow, planned.stage, make_steps(config, planned.stage, planned.built, eyes.read))
        meter.steps(batches, eyes)
        trained = [one for one in planned.stage.bridge.parameters() if one.requires_grad]
        towers = {"encoder": eyes.encoder, **({"llm": planned.stage.llm} if isinstance(planned.stage, Stage2) else {})}
        measured = Estimate(
            stage=config.stage,
            device=compute.device.type,
            dtype=compute.dtype_name,
            trained=sum(one.numel() for one in trained),
            parameters=storage_bytes(planned.stage.bridge.state_dict().values()),
            towers={name: storage_bytes(tower.state_dict().values()) for name, tower in towers.items()},
            store=store,
            activations=meter.activations,
            gradients=meter.gradients,
            optimizer=meter.optimizer(),
            others=shadow.now - begun - meter.optimizer(),
            peak=shadow.peak,
        )
    return measured, planned


class _Eyes:
    """The encoder without its weights, and what a step gets of it."""

    def __init__(self, encoder: Encoder, shadow: Shadow, compute: Compute, *, stored: bool) -> None:
        self.encoder, self.shadow, self.compute, self.stored = encoder, shadow, compute, stored
        self.sizes = Sizes(*self._patches(1).shape[1:])

    def see(self, batch: Batch) -> Batch:
        """The batch on its device with patches: from the store, or of pixels that are encoded now."""
        patches = self.read(batch.index, batch.index) if self.stored else self._patches(len(batch))
        return replace(batch.to(self.compute.device), vision=patches)

    def read(self, index: Int[Tensor, " R"], epoch: Int[Tensor, " R"]) -> Float[Tensor, "R P V"]:
        """Rows from the store, whichever they are."""
        shape = (len(index), self.sizes.patches, self.sizes.width)
        return self.shadow.blank(*shape, dtype=self.compute.dtype, device=self.compute.device)

    def _patches(self, pictures: int) -> Float[Tensor, "B P V"]:
        side = self.encoder.preprocessing.size
        pixels = self.shadow.blank(pictures, 3, side, side, dtype=torch.float32, device=self.compute.device)
        patches: Tensor = self.encoder(pixels)
        return patches


@dataclass
class _Meter:
    """Takes a run's steps in a shadow, and reads off what is alive when."""

    shadow: Shadow
    stage: Stage1 | Stage2
    trainer: Steps
    activations: int = 0
    gradients: int = 0
    begun: int = 0

    def steps(self, batches: list[Batch], eyes: _Eyes) -> None:
        """Take two steps: the second finds the optimizer's state there."""
        optimizer = self.trainer.raw_optimizer
        hooks = (
            self.stage.register_forward_pre_hook(self._begin_forward),
            self.stage.register_forward_hook(self._read_forward),
            optimizer.register_step_pre_hook(self._read_step),
        )
        for number in range(2):
            self.shadow.mark()
            self.activations, self.begun = 0, 0
            self.trainer.step(map(eyes.see, batches), number)
        for hook in hooks:
            hook.remove()

    def optimizer(self) -> int:
        """Bytes of the optimizer's state."""
        states = self.trainer.raw_optimizer.state.values()
        return storage_bytes(one for state in states for one in state.values() if isinstance(one, Tensor))

    def _begin_forward(self, *_: Any) -> None:
        self.begun = self.begun or self.shadow.now

    def _read_forward(self, *_: Any) -> None:
        self.activations = self.activations or self.shadow.now - self.begun  # of the first micro-batch

    def _read_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = (one.grad for group in optimizer.param_groups for one in group["params"])
        self.gradients = storage_bytes(one for one in gradients if one is not None)


def _store(config: RunConfig, sources: list[Mixture], eyes: _Eyes) -> Store:
    pictures = len({str(source[index].image) for source in sources for index in range(len(source))})
    views = store_views(config.features, eyes.compute)
    return Store(pictures, views.count, eyes.sizes, pictures * eyes.sizes.row_bytes(views))


def _batches(config: RunConfig, source: Mixture, tokenize: Tokenize) -> list[Batch]:
    """The first micro-batch with the longest texts, twice under accumulation: a third adds nothing unless joined."""
    alone = config.model_copy(update={"data": config.data.model_copy(update={"workers": 0})})
    loader, _ = training_loader(source, _Blind(), alone, tokenize=tokenize, broken=broken_pictures(config))
    longest, count = max(islice(loader, _BATCHES), key=_text_size), config.train.accumulation
    return [longest] * (count if config.train.chunked else min(2, count))


class _Blind:
    """How rows see their pictures here: not at all."""

    def __call__(self, example: Example, index: int, epoch: int) -> Float[Tensor, "0"]:
        return torch.empty(0)


def _text_size(batch: Batch) -> tuple[int, int]:
    """Tokens with their padding, then letters: the language model has other tokens."""
    asked = 0 if batch.instruction is None else batch.instruction.ids.numel()
    return batch.text.ids.numel() + asked, max(map(len, batch.captions))

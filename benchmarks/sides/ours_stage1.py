"""Our stage-1 step: the product's stage and trainer, every switch at the original's side (recipes/lavis.yaml)."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.side import Side, serve, training_bytes
from benchmarks.sides.ours import make_batch, make_trainer, read_batches, read_bridge, read_compute
from isthmus.models.stage1 import Stage1, Stage1Options
from isthmus.records import Step

SWITCHES = Stage1Options(
    gather="detached", identity="off", negatives="hard", uniform_share=0.0, clamp_temperature=False
)
_NAMES = {"itc": "itc", "itm": "itm", "itg": "lm"}


class OursStage1(Side):
    """One optimizer step on the next batch."""

    def load(self, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
        compute, bridge = read_compute(options), read_bridge(folder)
        self.stage = Stage1(bridge, dec=bridge.sizes.vocabulary - 1, options=SWITCHES)
        start = self._start(folder)
        self.batches = read_batches(folder, options, compute)
        self.trainer, self.done = make_trainer(self.stage, bridge, compute), 0
        self.trainer.stage.train()
        return {"start": start, "trained": sum(p.numel() for p in bridge.parameters())}

    def step(self) -> None:
        self.trainer.step([self.batches[self.done % len(self.batches)]], self.done)
        self.done += 1

    def outcome(self) -> dict[str, Any]:
        return {"losses": {_NAMES[name]: value for name, value in self.trainer.meters.read().items()}}

    def state_bytes(self) -> int:
        return training_bytes(self.stage, self.trainer.raw_optimizer)

    @torch.no_grad()
    def _start(self, folder: Path) -> dict[str, float]:
        """The losses of two rows without dropout in fp32: of two, each is the only negative of the other."""
        batch = make_batch(load_file(folder / "rows.safetensors"), torch.arange(2), torch.float32)
        losses = self.stage.eval()(batch, Step(0, 0, 0.0))
        return {_NAMES[name]: term.mean().item() for name, term in losses}


if __name__ == "__main__":
    serve(OursStage1())

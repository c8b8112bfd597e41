"""Our stage-2 step: the product's stage, language model and trainer."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.side import Side, serve, training_bytes
from benchmarks.sides.ours import make_batch, make_trainer, read_batches, read_bridge, read_compute
from isthmus.build.precision import choose_compute
from isthmus.build.towers import build_llm
from isthmus.config.model import LanguageConfig
from isthmus.language.prompts import Prompt
from isthmus.models.stage2 import Stage2
from isthmus.records import Step


class OursStage2(Side):
    """One optimizer step on the next batch."""

    def load(self, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
        compute, bridge = read_compute(options), read_bridge(folder)
        config = LanguageConfig(weights=f"folder:{folder / 'llm'}")
        llm = build_llm(config, Prompt(end=""), choose_compute("cpu", "fp32"))
        self.stage = Stage2(bridge, llm)
        start = self._start(folder)
        llm.to(compute.dtype)
        self.batches = read_batches(folder, options, compute)
        self.trainer, self.done = make_trainer(self.stage, bridge, compute), 0
        self.trainer.stage.train()
        return {"start": start, "trained": sum(p.numel() for p in bridge.parameters())}

    def step(self) -> None:
        self.trainer.step([self.batches[self.done % len(self.batches)]], self.done)
        self.done += 1

    def outcome(self) -> dict[str, Any]:
        return {"losses": self.trainer.meters.read()}

    def state_bytes(self) -> int:
        return training_bytes(self.stage, self.trainer.raw_optimizer)

    @torch.no_grad()
    def _start(self, folder: Path) -> dict[str, float]:
        """The loss of two rows without dropout, all of it in fp32."""
        batch = make_batch(load_file(folder / "rows.safetensors"), torch.arange(2), torch.float32)
        return {"lm": self.stage.eval()(batch, Step(0, 0, 0.0))["lm"].mean().item()}


if __name__ == "__main__":
    serve(OursStage2())

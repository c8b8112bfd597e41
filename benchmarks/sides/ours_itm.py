"""Our ITM: one picture's features, many texts, as re-ranking scores them."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.side import Side, serve, tensor_bytes
from benchmarks.sides.ours import read_bridge, read_compute
from isthmus.frozen import freeze
from isthmus.models.ranking import match_pairs
from isthmus.records import Text


class OursItm(Side):
    """Score every text."""

    def load(self, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
        self.compute, self.bridge = read_compute(options), freeze(read_bridge(folder))
        rows, texts = load_file(folder / "rows.safetensors"), options["texts"]
        self.texts = Text(rows["ids"][:texts], rows["mask"][:texts])
        self.pairs = torch.stack([torch.zeros(texts, dtype=torch.long), torch.arange(texts)], dim=1)
        patches = rows["patches"][:1]
        start = match_pairs(self.bridge, [patches], self.texts, self.pairs)
        self.patches = patches.to(self.compute.dtype)
        self.bridge.settle(self.compute.dtype)  # as a loaded bridge is
        return {"start": {f"logit {place}": value for place, value in enumerate(start.mean(0).tolist())}}

    def step(self) -> None:
        with self.compute.autocast():
            self.logits = match_pairs(self.bridge, [self.patches], self.texts, self.pairs)

    def outcome(self) -> dict[str, Any]:
        return {"mean_logits": self.logits.float().mean(0).tolist()}

    def state_bytes(self) -> int:
        return tensor_bytes(self.bridge.parameters())


if __name__ == "__main__":
    serve(OursItm())

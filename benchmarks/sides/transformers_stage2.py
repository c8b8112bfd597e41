"""Transformers' stage-2 step: `Blip2ForConditionalGeneration`, its language model frozen, under autocast for bf16.

The vision tower is replaced by one that gives the stored features, so that its closing LayerNorm, which our bridge
trains, stands still: 2,816 parameters of 105.75 million. Image tokens stand before the text in every row.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, Blip2ForConditionalGeneration

from benchmarks.side import Side, serve, training_bytes
from benchmarks.sides.blip2 import Features, config_of, fill, normalised, read_about

RATE, BETAS, DECAY = 1e-4, (0.9, 0.999), 0.05
END, PAD = 2, 1


class TransformersStage2(Side):
    """One optimizer step on the next batch."""

    def load(self, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
        about = read_about(folder)
        text = AutoConfig.from_pretrained(folder / "llm")
        self.image, self.queries = text.vocab_size - 1, about["sizes"]["queries"]
        self.model = Blip2ForConditionalGeneration(
            config_of(about["sizes"], text_config=text, image_token_index=self.image)
        )
        self.model.vision_model = Features()
        llm = load_file(folder / "llm/model.safetensors")
        fill(self.model, folder, about["names"], {f"language_model.{name}": value for name, value in llm.items()})
        self.model.language_model.requires_grad_(False)
        rows = normalised(folder, about["sizes"])
        self.batches = [
            self._batch(rows, index) for index in torch.split(torch.arange(len(rows["ids"])), options["batch"])
        ]
        with torch.no_grad():
            start = self.model.eval()(**self._batch(rows, torch.arange(2))).loss.item()
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=RATE, betas=BETAS, weight_decay=DECAY, fused=True)
        self.autocast, self.done = options["dtype"] == "bf16", 0
        self.model.train()
        return {"start": {"lm": start}, "trained": sum(p.numel() for p in self.trained)}

    def step(self) -> None:
        batch = self.batches[self.done % len(self.batches)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
            self.loss = self.model(**batch).loss
        self.loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1

    def outcome(self) -> dict[str, Any]:
        return {"losses": {"lm": self.loss.item()}}

    def state_bytes(self) -> int:
        return training_bytes(self.model, self.optimizer)

    def _batch(self, rows: dict[str, Tensor], index: Tensor) -> dict[str, Tensor]:
        """Image tokens, then the caption's tokens with the end mark in the place of [SEP]."""
        mask = rows["mask"][index]
        mask = mask[:, : int(mask.sum(1).max())]
        ids = rows["ids"][index][:, : mask.shape[1]].masked_fill(~mask, PAD)
        ids[torch.arange(len(ids)), mask.sum(1) - 1] = END
        images = torch.full((len(ids), self.queries), self.image)
        seen = torch.cat([torch.ones_like(images), mask.long()], dim=1)
        labels = torch.cat([torch.full_like(images, -100), ids.masked_fill(~mask, -100)], dim=1)
        sequence = torch.cat([images, ids], dim=1)
        return {"pixel_values": rows["patches"][index], "input_ids": sequence, "attention_mask": seen, "labels": labels}


if __name__ == "__main__":
    serve(TransformersStage2())

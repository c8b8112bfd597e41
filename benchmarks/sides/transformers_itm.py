"""Transformers' ITM: `Blip2ForImageTextRetrieval`, which takes the features once for every text."""

from pathlib import Path
from typing import Any

import torch
from transformers import Blip2ForImageTextRetrieval

from benchmarks.side import Side, serve, tensor_bytes
from benchmarks.sides.blip2 import Features, config_of, fill, normalised, read_about


class TransformersItm(Side):
    """Score every text, so many in one call."""

    def load(self, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
        about, texts = read_about(folder), options["texts"]
        shared = about["sizes"]["shared_width"]
        self.model = Blip2ForImageTextRetrieval(config_of(about["sizes"], image_text_hidden_size=shared)).eval()
        self.model.vision_model = Features()
        fill(self.model, folder, about["names"])
        rows = normalised(folder, about["sizes"])
        self.patches, self.at_once = rows["patches"][:1], options["at_once"]
        self.ids, self.mask = rows["ids"][:texts], rows["mask"][:texts].long()
        self.autocast = False
        self.step()
        start = self.logits.mean(0).tolist()
        self.autocast = options["dtype"] == "bf16"
        return {"start": {f"logit {place}": value for place, value in enumerate(start)}}

    def step(self) -> None:
        found = []
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
            for rows in torch.split(torch.arange(len(self.ids)), self.at_once):
                patches = self.patches.expand(len(rows), -1, -1)
                given = {"pixel_values": patches, "input_ids": self.ids[rows], "attention_mask": self.mask[rows]}
                found.append(self.model(**given, use_image_text_matching_head=True).logits_per_image)
        self.logits = torch.cat(found)

    def outcome(self) -> dict[str, Any]:
        return {"mean_logits": self.logits.float().mean(0).tolist()}

    def state_bytes(self) -> int:
        return tensor_bytes(self.model.parameters())


if __name__ == "__main__":
    serve(TransformersItm())

"""Captioning a folder with transformers as its documentation shows it: one picture at a time."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor, Blip2ForConditionalGeneration

from benchmarks.side import DTYPES, Side, serve


class TransformersCaption(Side):
    """Caption every picture of the folder, one after the other."""

    def load(self, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
        self.dtype, self.tokens = DTYPES[options["dtype"]], options["tokens"]
        self.model = Blip2ForConditionalGeneration.from_pretrained(folder / "theirs", dtype=self.dtype).eval()
        self.processor = AutoProcessor.from_pretrained(folder / "theirs")
        self.pictures = sorted((folder / "pictures").glob("*.jpg"))
        return {}

    def step(self) -> None:
        self.captions = {path.name: self._caption(path) for path in self.pictures}

    def outcome(self) -> dict[str, Any]:
        return {"captions": self.captions}

    def _caption(self, path: Path) -> str:
        with Image.open(path) as image:
            given = self.processor(images=image.convert("RGB"), return_tensors="pt").to("cpu", self.dtype)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            rows = self.model.generate(**given, max_new_tokens=self.tokens, min_new_tokens=self.tokens)
        text: str = self.processor.batch_decode(rows, skip_special_tokens=True)[0]
        return text.strip()


if __name__ == "__main__":
    serve(TransformersCaption())

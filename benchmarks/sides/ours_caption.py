"""Our way to caption a folder: what `isthmus caption FOLDER --output FILE` runs, the model loaded before."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.side import Side, serve
from isthmus import Predictor
from isthmus.images import Prepared
from isthmus.language.llm import Decoding
from isthmus.tasks.folder import caption_pictures, find_pictures
from isthmus.tasks.output import CaptionFile

NAMES = {"bf16": "bfloat16", "fp32": "float32"}


class OursCaption(Side):
    """Caption every picture of the folder into a new file."""

    def load(self, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
        self.folder, self.batch, self.done = folder, options["batch"], 0
        self.predictor = Predictor.from_pretrained(folder / "ours", device="cpu", dtype=NAMES[options["dtype"]])
        tokens = options["tokens"]
        self.decoding: dict[str, Any] = asdict(Decoding(max_new_tokens=tokens, min_new_tokens=tokens))
        return {}

    def step(self) -> None:
        self.done += 1
        self.place = self.folder / f"captions-{self.done}.jsonl"
        with CaptionFile(self.place, "overwrite") as place:
            caption_pictures(
                find_pictures([self.folder / "pictures"]).pictures,
                place,
                self._caption,
                prepare=self.predictor.prepare,
                batch_size=self.batch,
                progress=lambda done, total: None,
            )

    def _caption(self, opened: Iterator[Prepared]) -> list[str]:
        return list(self.predictor.caption(opened, batch_size=self.batch, **self.decoding))

    def outcome(self) -> dict[str, Any]:
        rows = [json.loads(line) for line in self.place.read_text(encoding="utf-8").splitlines()]
        return {"captions": {row["file_name"]: row["text"] for row in rows}}


if __name__ == "__main__":
    serve(OursCaption())

"""Folders of pictures that hold nothing to see: random colours, each another."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(folder: Path, count: int, *, side: int, suffix: str, captions: int = 0, seed: int = 4) -> Path:
    """Write pictures of coarse random colours; with `captions`, a metadata file of so many words each."""
    generator = np.random.default_rng(seed)
    folder.mkdir()
    lines = []
    for number in range(count):
        colours = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        name = f"{number:04}{suffix}"
        Image.fromarray(colours).resize((side, side), Image.Resampling.BICUBIC).save(folder / name)
        text = " ".join(f"w{word}" for word in generator.integers(103, 900, captions))
        lines.append(json.dumps({"file_name": name, "text": text}))
    if captions:
        (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder

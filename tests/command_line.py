"""The command line as tests call it, the pictures and the two recipes of tiny random towers they call it with."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState
from PIL import Image, ImageColor

from fakes import tiny_bert_folder, tiny_clip_folder, tiny_llama_folder
from isthmus.cli import main

COLOURS, THINGS = ("red", "blue", "green", "yellow"), ("cat", "dog", "fish", "bird", "horse", "cow")
STEPS = 6


def pictures(folder: Path) -> Path:
    """24 pictures, one colour above, one shape's width below, with one caption each."""
    folder.mkdir()
    lines = []
    for number, (colour, (place, thing)) in enumerate(product(COLOURS, enumerate(THINGS))):
        picture = Image.new("RGB", (40, 36), ImageColor.getrgb(colour))
        picture.paste((0, 0, 0), (0, 18, 5 + 6 * place, 36))
        picture.save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": f"a {colour} {thing}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def isthmus_process(*arguments: object) -> subprocess.CompletedProcess:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "isthmus", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def isthmus(*arguments: object) -> int:
    """The command line in this process; the exit code."""
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["isthmus", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            main()
    return done.value.code


def tiny_recipes(place: Path) -> tuple[Path, Path]:
    """Pictures, tiny random towers, and the recipes of both stages that name them: one.yaml and two.yaml."""
    pictures(place / "pictures")
    source = {"folder": str(place / "pictures")}
    common = {
        "data": {"train": source, "evaluation": source},
        "features": {"folder": str(place / "features"), "views": 2},
        "encoder": {"kind": "transformers", "weights": f"folder:{tiny_clip_folder(place / 'clip')}"},
        "train": {"steps": STEPS, "batch_size": 6, "log_every": 2, "evaluate_every": 3, "lr": 1e-3},
    }
    stage1 = {
        **common,
        "stage": 1,
        "output": str(place / "one"),
        "bridge": {"bert": f"folder:{tiny_bert_folder(place / 'bert')}", "queries": 4, "shared_width": 8},
    }
    stage2 = {
        **common,
        "stage": 2,
        "output": str(place / "two"),
        "init": {"from": str(place / "one")},
        "bridge": {"projection": "least_squares"},
        "llm": {
            "weights": f"folder:{tiny_llama_folder(place / 'llama')}",
            "prompt": {"before": "A picture of:", "examples": 2},
        },
    }
    (place / "one.yaml").write_text(yaml.safe_dump(stage1))
    (place / "two.yaml").write_text(yaml.safe_dump(stage2))
    return place / "one.yaml", place / "two.yaml"

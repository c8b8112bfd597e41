"""A tiny icon set on disk, in the form of the real packages."""

import json
from pathlib import Path

SQUARE = '<path fill="#f00" d="M0 0h10v10H0z"/>'
NAMES = ("red-square", "alarm-clock", "blue-dot", "green-dot")


def write_set(folder: Path, *, licence: str = "Apache-2.0", icons: dict | None = None) -> Path:
    folder.mkdir(parents=True)
    drawn = icons or {name: {"body": SQUARE} for name in (*NAMES, "one-oclock", "one-thirty", "flag")}
    content = {"prefix": "tiny", "icons": drawn, "width": 10, "height": 10}
    content["aliases"] = {"old-square": {"parent": "red-square"}}
    categories = {
        "Activities": ["red-square"],
        "Animals & Nature": ["blue-dot"],
        "Food & Drink": ["green-dot"],
        "Objects": ["alarm-clock"],
        "Smileys & Emotion": ["old-square"],
        "Travel & Places": ["one-oclock", "one-thirty"],
        "Flags": ["flag"],
    }
    (folder / "icons.json").write_text(json.dumps(content))
    (folder / "info.json").write_text(json.dumps({"license": {"spdx": licence}}))
    (folder / "metadata.json").write_text(json.dumps({"categories": categories}))
    return folder

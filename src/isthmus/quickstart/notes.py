"""What a quickstart notes for its next start: JSON objects that are there whole, or are as good as not there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isthmus.files import write_atomically


def read_notes(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none that can be read: its part of the work is then done again."""
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return notes if isinstance(notes, dict) else None


def write_notes(path: Path, notes: Mapping[str, Any]) -> None:
    """Write a JSON object in place of the one before, and make its folder."""
    content = json.dumps(notes, indent=2) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda scratch: scratch.write_text(content, encoding="utf-8"))

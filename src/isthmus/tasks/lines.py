"""Captions as JSON lines {"file_name": ..., "text": ...}: made, read, and told from the half of one."""

import json
from typing import Any, BinaryIO

_BEGINNING = b'{"file_name": '


def make_line(entry: dict[str, Any]) -> bytes:
    """One JSON line in UTF-8; a name that no UTF-8 can hold is escaped."""
    try:
        return json.dumps(entry, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(entry).encode() + b"\n"


def read_line(raw: bytes) -> dict[str, Any] | None:
    """A line of captions; None for anything else."""
    try:
        entry = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
        return None
    text = entry.get("text")
    texts = text if isinstance(text, list) else [text]
    return entry if all(isinstance(one, str) for one in texts) else None


def is_half(raw: bytes) -> bool:
    """True for the beginning of a line as `make_line` writes it, cut anywhere."""
    return read_line(raw) is None and (raw.startswith(_BEGINNING) or _BEGINNING.startswith(raw))


def write_all(file: BinaryIO, content: bytes) -> None:
    """Write every byte: an unbuffered file may take a part of them when the disk gets full."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]

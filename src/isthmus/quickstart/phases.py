"""What a quickstart folder has been through: each phase with the key it was done for, its time and its memory.

A phase's key holds all that its result depends on: what was asked for, the config, the versions of what was fetched,
and the phase's own format number, which is raised when the code that makes the result changes it. A commit is no part
of it. So nothing stale is used again, and nothing good is done twice.
"""

import hashlib
import json
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isthmus.quickstart.notes import read_notes, write_notes

PHASES = "phases.json"
FORMATS = {"pictures": 1, "features": 1, "stage 1": 1, "stage 2": 1, "scores": 1}
_CLEAR_REFS, _STATUS, _RESET_PEAK = Path("/proc/self/clear_refs"), Path("/proc/self/status"), "5"


def phase_key(name: str, content: Mapping[str, Any]) -> str:
    """Hash what a phase's result depends on, with the phase's format number."""
    text = json.dumps({"phase": name, "format": FORMATS[name], **content}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class Phases:
    """The phases of one folder, kept in `phases.json`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / PHASES
        entries = read_notes(self._path) or {}
        self._entries: dict[str, dict[str, Any]] = {name: entry for name, entry in entries.items() if name in FORMATS}

    def done(self, name: str, key: str) -> bool:
        """True where the phase ended for this key."""
        entry = self._entries.get(name, {})
        return bool(entry.get("done")) and entry.get("key") == key

    def known(self, name: str, key: str) -> bool:
        """True where nothing was begun, or what was begun was for this key."""
        entry = self._entries.get(name)
        return entry is None or bool(entry["key"] == key)

    @contextmanager
    def run(self, name: str, key: str) -> Iterator[None]:
        """Time a phase and note that it ended; an interrupted one keeps its time and goes on counting later.

        A phase that is done for this key is only looked at again: that adds nothing to its time.
        """
        if self.done(name, key):
            yield
            return
        before = self._entries.get(name, {})
        spent = before.get("seconds", 0.0) if before.get("key") == key else 0.0
        begun, finished = time.monotonic(), False
        self._note(name, {"key": key, "done": False, "seconds": spent})
        _reset_peak()
        try:
            yield
            finished = True
        finally:
            seconds = round(spent + time.monotonic() - begun, 1)
            self._note(name, {"key": key, "done": finished, "seconds": seconds, "peak_gib": round(_peak_gib(), 2)})

    def forget(self, name: str) -> None:
        """Take a phase, and all that come after it, for not begun."""
        names = list(FORMATS)
        later = set(names[names.index(name) :])
        self._entries = {phase: entry for phase, entry in self._entries.items() if phase not in later}
        self._write()

    @property
    def seconds(self) -> dict[str, float]:
        """Time spent in each phase, seconds."""
        return {name: entry["seconds"] for name, entry in self._entries.items()}

    @property
    def peak_gib(self) -> dict[str, float]:
        """Largest resident memory in each phase, GiB: of the whole process, libraries included."""
        return {name: entry["peak_gib"] for name, entry in self._entries.items() if "peak_gib" in entry}

    def _note(self, name: str, entry: dict[str, Any]) -> None:
        self._entries[name] = entry
        self._write()

    def _write(self) -> None:
        write_notes(self._path, self._entries)


def _reset_peak() -> None:
    """Let the kernel count the peak anew, where it can; elsewhere a phase shows the peak so far."""
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
    except OSError:
        return


def _peak_gib() -> float:
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

"""The checkpoints of one run: one after the other, which of them counts, which may go.

step-00000120/    a checkpoint (training.py), named by the optimizer steps taken
latest            the name of the one to go on from, written when that is on the disk: from then on it counts
best.json         step, metric and value of the best; its folder is kept
.tmp-…            what is being written or removed

Every name is relative, so that the folder may be moved. One process at a time writes to it.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from isthmus.checkpoints.sealed import UNFINISHED, read_json, recover
from isthmus.checkpoints.training import TrainingFile, read_training, write_training
from isthmus.errors import CheckpointError
from isthmus.files import make_folder, write_atomically

LATEST, BEST = "latest", "best.json"
_STEP = re.compile(r"step-(\d{8,})")
SaveTokenizer = Callable[[Path], None]


@dataclass(frozen=True)
class Found:
    """The checkpoint to go on from; `passed_over` says in a sentence each what was damaged, cut off or removed."""

    folder: Path
    file: TrainingFile
    passed_over: list[str]


class Shelf:
    """The checkpoints of one run, in one folder: the last `keep`, and the best."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"a shelf keeps 1 checkpoint or more, not {keep}")
        self.folder, self.keep = folder, keep
        self._thread = ThreadPoolExecutor(1, "checkpoint")  # an interpreter that ends waits for what is in it
        self._outstanding: Future[Path] | None = None
        self._written: int | None = None

    def write(self, file: TrainingFile, step: int, *, save_tokenizer: SaveTokenizer | None = None) -> Path:
        """Write the checkpoint of a step, let `latest` name it, then remove what is not kept; returns its folder.

        Kept are it, the `keep` - 1 before it, and the best. One of a later step goes too, unless it is the best: the
        run went back behind it, because it was damaged or somebody wished so.
        Raises `CheckpointError` where the disk is full or cannot be written, or the write before it failed; no
        checkpoint is lost then.
        """
        self.wait()
        return self._write(file, step, save_tokenizer)

    def write_later(self, file: TrainingFile, step: int, *, save_tokenizer: SaveTokenizer | None = None) -> None:
        """Do what `write` does in a thread, once the write before it has ended; its error is raised by what comes next.

        Nothing else may change the tensors: hand over copies. The tokenizer's files are made at once, in this thread.
        """
        self.wait()
        if save_tokenizer is not None:
            save_tokenizer = self._saved_now(save_tokenizer)
        self._outstanding = self._thread.submit(self._write, file, step, save_tokenizer)

    def wait(self) -> None:
        """Wait for the outstanding write, if there is one; raises its error."""
        if (outstanding := self._outstanding) is not None:
            wait_for([outstanding])  # whatever interrupts this leaves it outstanding
            self._outstanding = None
            outstanding.result()

    def mark_best(self, step: int, metric: str, value: float) -> None:
        """Keep the checkpoint of a step until a better one is marked; raises `CheckpointError` where there is none."""
        self.wait()
        if not self._place(step).is_dir():
            raise CheckpointError(f"{self._place(step)} is not there to be kept as the best; save it first")
        self._put(BEST, json.dumps({"step": step, "metric": metric, "value": value}))
        self._prune()

    def best(self) -> dict[str, Any] | None:
        """Step, metric and value of the best that was marked; raises `CheckpointError` where that is not readable."""
        path = self.folder / BEST
        try:
            marked = read_json(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as problem:
            raise _damaged_best(path) from problem
        if not isinstance(marked.get("step"), int) or not {"metric", "value"} <= marked.keys():
            raise _damaged_best(path)
        return marked

    def newest(self) -> Found | None:
        """Find the checkpoint to go on from: the one that `latest` names, or the newest before it that is undamaged.

        Where `latest` is lost, the newest of all. Leftovers are removed (`clear`). None where there was never a
        checkpoint; raises `CheckpointError` where there are some, or were, and none can be read.
        """
        self.wait()
        passed_over = self.clear()
        named = self._named(passed_over)
        steps = self._steps()
        behind = [step for step in steps if named is None or step <= named]
        ahead = [step for step in steps if step not in behind]
        passed_over += [f"{self._place(step)} does not count: {LATEST} names an earlier one" for step in ahead]
        for step in behind + ahead:
            try:
                return Found(self._place(step), read_training(self._place(step)), passed_over)
            except CheckpointError as problem:
                passed_over.append(str(problem))
        if not steps and not (self.folder / LATEST).exists():
            return None
        raise CheckpointError(
            f"{self.folder} holds no checkpoint that can be read ({'; '.join(passed_over)}); bring one back from "
            "where it was copied, or train anew in another `output`"
        )

    def clear(self) -> list[str]:
        """Remove what was cut off while it was written or removed; a sentence for each says so."""
        self.wait()
        for name in {path.name[1:].removesuffix("-old") for path in self.folder.glob(".step-*-old")}:
            recover(self.folder / name)
        return [self._clear(path) for path in sorted(self._leftovers())]

    def _leftovers(self) -> Iterator[Path]:
        yield from self.folder.glob(f"{UNFINISHED}*")
        yield from self.folder.glob(".step-*-old")
        yield from (path for name in (LATEST, BEST) if (path := self.folder / f".{name}.tmp").exists())

    def _clear(self, path: Path) -> str:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
        done = "could not be removed" if path.exists() else "was removed"
        return f"{path} is what was left when a run was cut off; it {done}"

    def _write(self, file: TrainingFile, step: int, save_tokenizer: SaveTokenizer | None) -> Path:
        place = self._place(step)
        write_training(file, place, save_tokenizer=save_tokenizer)
        self._put(LATEST, place.name)
        self._written = step
        self._prune()
        return place

    def _put(self, name: str, line: str) -> None:
        path = self.folder / name
        try:
            write_atomically(path, lambda scratch: scratch.write_text(line + "\n", encoding="utf-8"))
        except OSError as problem:
            raise CheckpointError(f"{path} could not be written ({problem.strerror}); free some space") from problem

    def _prune(self) -> None:
        """Remove what is not kept; only a shelf that has written a whole one does, and that one stays."""
        if self._written is None:
            return
        try:
            best = self.best()
        except CheckpointError:
            return  # which of them is the best is not known: nothing is removed
        steps = self._steps()
        kept = {*[step for step in steps if step <= self._written][: self.keep], best and best["step"]}
        for step in steps:
            if step not in kept:
                self._remove(self._place(step))

    def _remove(self, place: Path) -> None:
        """Take a checkpoint's name away first: what is cut off in the middle must not look like a damaged one."""
        gone = place.with_name(f"{UNFINISHED}gone-{place.name}")
        shutil.rmtree(gone, ignore_errors=True)
        try:
            place.rename(gone)
        except OSError as problem:
            raise CheckpointError(f"{place} could not be removed ({problem.strerror}); see to its folder") from problem
        shutil.rmtree(gone, ignore_errors=True)  # what cannot go now is a leftover

    def _named(self, passed_over: list[str]) -> int | None:
        """The step that `latest` names; where it names none that is there, a sentence is added."""
        path = self.folder / LATEST
        try:
            name = path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            if self._steps():
                passed_over.append(f"{path} is missing")
            return None
        except (OSError, ValueError):
            name = ""
        if (match := _STEP.fullmatch(name)) and (self.folder / name).is_dir():
            return int(match[1])
        passed_over.append(f"{path} is damaged" if match is None else f"{path} names {name}, which is not there")
        return None

    def _steps(self) -> list[int]:
        """The steps of all checkpoints that are there, whole or not, the newest first."""
        matches = (_STEP.fullmatch(path.name) for path in self.folder.glob("step-*") if path.is_dir())
        return sorted((int(match[1]) for match in matches if match), reverse=True)

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _saved_now(self, save_tokenizer: SaveTokenizer) -> SaveTokenizer:
        """What writes the files that a tokenizer saves now: it must not be saved while another thread uses it."""
        try:
            make_folder(self.folder)
            with TemporaryDirectory(prefix=UNFINISHED, dir=self.folder) as scratch:
                save_tokenizer(Path(scratch))
                files = {path.relative_to(scratch): path.read_bytes() for path in _files(Path(scratch))}
        except OSError as problem:
            raise CheckpointError(f"{self.folder} cannot be written ({problem}); free some space") from problem

        def write(folder: Path) -> None:
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)

        return write


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _damaged_best(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is damaged; remove it, and the best of the evaluations to come is kept")

"""Scores of a quickstart on pictures it never trained on, its report and its picture of retrieval rows."""

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

from isthmus.build.load import LoadedRun, load_run
from isthmus.build.workshop import Workshop
from isthmus.checkpoints.native import MARKER
from isthmus.features.files import write_atomically
from isthmus.fingerprint import file_sha256
from isthmus.quickstart.artists import ARTISTS, credits_line
from isthmus.quickstart.plan import gemm_rate
from isthmus.quickstart.run import Quickstart
from isthmus.quickstart.sheet import SheetRow, retrieval_sheet
from isthmus.randomness import permutation
from isthmus.tasks.retrieval import Embedded
from isthmus.train.tracking import StoreProgress

REPORT, SHEET = "report.json", "retrieval.png"
_SHEET_ROWS, _NEAREST = 8, 5


def score(run: Quickstart, workshop: Workshop) -> dict[str, Any]:
    """Score both bridges on every held-out set, write `report.json` and `retrieval.png`, return the report."""
    folder = run.order.folder
    begun = time.monotonic()
    retrieved: dict[str, Any] = {}
    for name, metadata in run.order.held_out.items():
        loaded = _load(run, 1, metadata, workshop)
        retrieved[name] = loaded.evaluate()
        if len(retrieved) == 1:
            embedded = loaded.evaluation.embed(loaded.stage.bridge)
            _draw_sheet(embedded, folder / "pictures", metadata, folder / SHEET)
    spoken = {name: _load(run, 2, metadata, workshop).evaluate() for name, metadata in run.order.held_out.items()}
    report = {
        "work": run.order.work.describe(),
        "bridges": _bridges(run),
        "seed": run.order.seed,
        "trained_on": run.order.training_rows,
        "steps": {f"stage {s}": r["config"]["train"]["steps"] for s, r in run.records.items()},
        "seconds": {**run.phases.seconds, "scores": round(time.monotonic() - begun, 1)},
        "seconds_per_step": {f"stage {s}": _step_seconds(folder / f"stage{s}" / "log.jsonl") for s in run.records},
        "precision": workshop.compute.dtype_name,
        "gemm_gflops": round(gemm_rate(workshop.compute)),
        "peak_memory_gib": run.phases.peak_gib,
        "versions": run.records[1]["versions"],
        "towers": run.records[2]["towers"],
        "towers_unchanged": {f"stage {s}": r["towers_unchanged"] for s, r in run.records.items()},
        "retrieval": retrieved,
        "language": spoken,
        "artwork": [artist.credit for artist in ARTISTS],
    }
    content = json.dumps(report, indent=2) + "\n"
    write_atomically(folder / REPORT, lambda path: path.write_text(content))
    return report


def finished_report(run: Quickstart) -> dict[str, Any] | None:
    """The report of exactly these two bridges, if it is there; else None."""
    folder = run.order.folder
    try:
        report: dict[str, Any] = json.loads((folder / REPORT).read_text())
    except (OSError, ValueError):
        return None
    return report if report.get("bridges") == _bridges(run) and (folder / SHEET).is_file() else None


def _bridges(run: Quickstart) -> dict[str, str]:
    """What tells one bridge from another: the hash of its marker, which holds the hashes of its files."""
    return {f"stage {stage}": file_sha256(run.bridge(stage) / MARKER) for stage in (1, 2)}


def _load(run: Quickstart, stage: int, metadata: str, workshop: Workshop) -> LoadedRun:
    """Load a stage's saved bridge, to be scored on one metadata file's pictures."""
    evaluation = {"folder": str(run.order.folder / "pictures"), "metadata": metadata}
    with StoreProgress() as progress:
        return load_run(run.bridge(stage), {"data.evaluation": evaluation}, workshop=workshop, progress=progress)


def _draw_sheet(embedded: Embedded, pictures: Path, metadata: str, path: Path) -> None:
    """Rows of a name and its five nearest drawings; the names are the first of a keyed order, never picked by hand."""
    files = [json.loads(line)["file_name"] for line in (pictures / metadata).read_text().splitlines()]
    similarity, same = embedded.similarity().T, embedded.same().T
    rows = []
    for index in permutation(len(files), 0)[:_SHEET_ROWS].tolist():
        nearest = similarity[index].topk(min(_NEAREST, len(files))).indices.tolist()
        right = [bool(same[index, candidate]) for candidate in nearest]
        rows.append(SheetRow(embedded.captions[index], [pictures / files[n] for n in nearest], right))
    artists = {file.partition("/")[0] for file in files}
    title = f"A name and its nearest drawings among {len(files)} ({', '.join(sorted(artists))})"
    retrieval_sheet(rows, path, title=title, footer=credits_line(artists))


def _step_seconds(log: Path) -> float:
    """The median step of the log's last run, in seconds."""
    lines = log.read_text().splitlines()
    records = [json.loads(line) for line in lines if line.endswith("}")]  # a killed run may end in half a line
    last = max(number for number, record in enumerate(records) if "start" in record)
    seconds = [record["seconds_per_step"] for record in records[last:] if "seconds_per_step" in record]
    middle: float = median(seconds)
    return round(middle, 3)

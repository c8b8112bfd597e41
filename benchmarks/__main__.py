"""`make bench`: run comparisons, and keep what they measured in `benchmarks/results`."""

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers.utils import logging

from benchmarks import machine
from benchmarks.inputs import SCALES
from benchmarks.pair import Effort
from benchmarks.row import Case, Row, Setting
from benchmarks.rows import caption, contrastive, epoch, growth, itm, stage1, stage2, time_to_loss

_MODULES = (stage1, stage2, itm, epoch, contrastive, caption, time_to_loss, growth)
ROWS = {module.ROW.name: module.ROW for module in _MODULES}
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run what the command line names."""
    given = _arguments()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    here = machine.describe()
    rows = [ROWS[name] for name in given.only.split(",")] if given.only else list(ROWS.values())
    if not any(_wanted(case, given.case) for row in rows for case in row.cases):
        known = "; ".join(f"{row.name}: {', '.join(row.cases[0])}" for row in rows)
        raise SystemExit(f"no case is {' '.join(given.case)}; the keys of cases are, by row, {known}")
    for row in rows:
        kept = [case for case in row.cases if _wanted(case, given.case)]
        for case in kept:
            print(f"{row.name}: {_told(case)}", flush=True)
            if case.get("dtype") == "bf16" and here["bf16"] == "none" and not given.emulated:
                print("    left out: this processor has no bf16 of its own")
                continue
            measured = _run(row, case, given)
            print(f"    {json.dumps(_short(measured))}", flush=True)
            if given.scale == "full" or given.results != RESULTS:
                _keep(given.results / f"{row.name}-{machine.slug(here)}.json", row, here, {"case": case, **measured})


def _arguments() -> argparse.Namespace:
    effort = Effort()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("only", nargs="?", default="", help=f"rows, with commas between them: {', '.join(ROWS)}")
    parser.add_argument("--case", action="append", default=[], help="KEY=VALUE that a case must have; may be repeated")
    parser.add_argument("--threads", type=int, default=effort.threads)
    parser.add_argument("--pairs", type=int, default=effort.pairs)
    parser.add_argument("--warmup", type=int, default=effort.warmup)
    parser.add_argument("--patience", type=int, default=effort.patience, help="a pair is taken at most so many times")
    parser.add_argument("--limit", type=float, default=effort.limit, help="what others may use of all cores, 0 to 1")
    parser.add_argument("--scale", choices=SCALES, default="full", help="tiny: to see that it runs; nothing is kept")
    parser.add_argument("--emulated", action="store_true", help="bf16 where the processor has none of its own too")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    if unknown := [name for name in given.only.split(",") if name and name not in ROWS]:
        parser.error(f"there is no row {unknown[0]}; known are {', '.join(ROWS)}")
    return given


def _wanted(case: Case, asked: list[str]) -> bool:
    pairs = (each.split("=", 1) for each in asked)
    return all(str(case.get(key)) == value for key, value in pairs)


def _told(case: Case) -> str:
    return " ".join(f"{key}={value}" for key, value in case.items())


def _run(row: Row, case: Case, given: argparse.Namespace) -> dict[str, Any]:
    effort = Effort(given.threads, given.warmup, given.pairs, given.patience, given.limit)
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as folder:
        measured = row.run(case, Setting(given.scale, SCALES[given.scale], effort, Path(folder)))
    usual = Effort()
    told = {name: value for name, value in asdict(effort).items() if value != getattr(usual, name)}
    options = " ".join(
        [f"--case {key}={value}" for key, value in case.items()] + [f"--{k} {v}" for k, v in told.items()]
    )
    command = f'make bench ONLY={row.name} ARGS="{options}"'
    return {**machine.now(), "scale": given.scale, "command": command, **measured}


def _short(measured: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in measured.items() if name not in ("pairs", "versions", "command")}


def _keep(path: Path, row: Row, here: dict[str, Any], entry: dict[str, Any]) -> None:
    """Put a case's result in the place of an earlier one of the same case and threads."""
    known = json.loads(path.read_text(encoding="utf-8"))["cases"] if path.exists() else []
    others = [old for old in known if (old["case"], old["threads"]) != (entry["case"], entry["threads"])]
    content = {"row": row.name, "title": row.title, "peer": row.peer, "machine": here, "cases": [*others, entry]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Write the tables of docs/performance.md, and the figures of its plot, from `benchmarks/results` and nothing else.

Usage: python -m benchmarks.report        (`make bench-report`)

Each table stands between marks of its row's name; what lies outside of the marks is left as it is.
"""

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.__main__ import RESULTS, ROWS
from benchmarks.child import ROOT
from benchmarks.environments import python_of
from benchmarks.row import Case, Row

PAGE = ROOT / "docs/performance.md"
PLOT = ROOT / "docs/performance.svg"
GIB = 2**30
Entry = Mapping[str, Any]


def main() -> None:
    """Fill every table, and draw the plot where there is anything to draw."""
    files = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    text = PAGE.read_text(encoding="utf-8")
    for row in ROWS.values():
        text = filled(text, row.name, table(row, [file for file in files if file["row"] == row.name]))
    bars = list(plotted(files))
    if bars:
        plot = [str(python_of("plot")), str(Path(__file__).parent / "plot.py"), str(PLOT)]
        subprocess.run(plot, input=json.dumps(bars), text=True, check=True)
    picture = f"![How many times as fast as each peer]({PLOT.name})" if bars else "Nothing to draw: no row was run."
    PAGE.write_text(filled(text, "plot", picture), encoding="utf-8")


def filled(text: str, name: str, content: str) -> str:
    """The text with new content between the marks of a name; raises `ValueError` where they are not there."""
    begin, end = f"<!-- {name}: begin (made by `make bench-report`) -->", f"<!-- {name}: end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{PAGE} has no marks for {name}")
    return pattern.sub(lambda _: f"{begin}\n\n{content}\n\n{end}", text)


def table(row: Row, files: list[dict[str, Any]]) -> str:
    """One row's cases on every machine it was run on; a case that was run on none is there too, and says so."""
    columns: dict[str, Callable[[Entry], str]] = {
        "times as fast (lowest to highest)": _ratio,
        "ours, s": lambda entry: _seconds(entry, "ours"),
        "peer, s": lambda entry: _seconds(entry, "peer"),
        "memory, GiB ours / peer": lambda entry: _memory(entry, "total"),
        "above the state": lambda entry: _memory(entry, "above"),
        "share of the GEMM rate": _mfu,
        **{heading: partial(_sides, name=name) for heading, name in row.own.items()},
        "apart at start": _apart,
        "clean": lambda entry: f"{entry['clean']} of {_taken(entry)}",
        "commit": lambda entry: f"{entry['commit']}, {entry['date']}",
    }
    lines = [f"| case | machine | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for case in row.cases:
        found = [(file["machine"], entry) for file in files for entry in file["cases"] if entry["case"] == case]
        for machine, entry in found:
            cells = [
                _told(case),
                f"{_short(machine)}, {entry['threads']} threads",
                *(c(entry) for c in columns.values()),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        if not found:
            lines.append(f"| {_told(case)} | not run{' | ' * len(columns)} |")
    return "\n".join(lines)


def plotted(files: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A bar for each case on each machine."""
    for file in files:
        for entry in filter(lambda entry: "times_as_fast" in entry, file["cases"]):
            label = f"{file['title']} against {file['peer']}: {_told(entry['case'])}"
            yield {"label": label, "machine": _short(file["machine"]), **entry["times_as_fast"]}


def _told(case: Case) -> str:
    return ", ".join(f"{key} {value}" for key, value in case.items())


def _short(machine: dict[str, Any]) -> str:
    return f"{machine['processor']} ({machine['bf16']}), {machine['cores']} cores"


def _ratio(entry: Entry) -> str:
    if (given := entry.get("times_as_fast")) is None:
        return "no peer"
    return f"**{given['median']:.2f}** ({given['min']:.2f} to {given['max']:.2f})"


def _seconds(entry: Entry, side: str) -> str:
    if "times_as_fast" not in entry and side == "peer":
        return ""
    if f"{side}_seconds" in entry:
        return f"{entry[f'{side}_seconds']['median']:.3g}"
    return f"{entry['seconds'][side]:.3g} in {entry['steps'][side]} steps"


def _memory(entry: Entry, part: str) -> str:
    if "memory" not in entry:
        return ""
    if "peer" not in entry["memory"]:
        return f"{entry['memory']['ours'][part] / GIB:.2f}"
    ours, peer = (entry["memory"][side][part] for side in ("ours", "peer"))
    return f"{ours / GIB:.2f} / {peer / GIB:.2f} = {ours / peer:.2f}"


def _sides(entry: Entry, *, name: str) -> str:
    return " / ".join(f"{value:.3g}" for value in entry[name].values())


def _mfu(entry: Entry) -> str:
    return " / ".join(f"{value:.0%}" for value in entry.get("mfu", {}).values())


def _apart(entry: Entry) -> str:
    if "same_captions" in entry:
        return f"{entry['same_captions']} of {entry['pictures']} captions are the same"
    return f"{max(chain([0.0], entry['differences_at_start'].values())):.0e}" if "differences_at_start" in entry else ""


def _taken(entry: Entry) -> int:
    return entry["counted"] if isinstance(entry["pairs"], dict) else len(entry["pairs"])


if __name__ == "__main__":
    main()

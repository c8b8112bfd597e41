"""Train the quickstart's stage 1 while a killer is at work, and see that nothing was lost (docs/reliability.md).

Usage: python tools/soak.py [--minutes 10] [--seed 0] [--folder runs/soak] [--pictures runs/quickstart]

One run is left alone. The same run is then trained by a process that is killed again and again, at random: SIGKILL,
SIGTERM, or SIGKILL of one of its loading workers. Each time the same command is given again. At the end every tensor of
both bridges, and every loss in both logs, must be the same bit for bit. Exit code 1 where they are not.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

import isthmus.quickstart
from isthmus.build.run import build_training
from isthmus.checkpoints.native import read_bridge
from isthmus.config.run import check, put, read_yaml
from isthmus.quickstart.pictures import prepare_pictures
from isthmus.quickstart.plan import measure_step

RECIPE = Path(isthmus.quickstart.__file__).parent / "stage1.yaml"
KINDS = ("SIGKILL", "SIGTERM", "worker")
SHORTEST, LONGEST = 20.0, 60.0
"""Seconds between two strikes; a process needs some of them to come to its first step."""
TIMES = ("time", "seconds_per_step", "pairs_per_second")
TRAINING_SHARE = 0.6
"""Of the time under the killer, what is left for steps by a guess: the rest is starting again."""


def write_recipe(folder: Path, pictures: Path, steps: int) -> Path:
    """The quickstart's recipe with two loading workers and frequent checkpoints."""
    values: dict[str, object] = {
        "output": str(folder / "unset"),
        "data.train.folder": str(pictures / "pictures"),
        "data.workers": 2,
        "features.folder": str(pictures / "features"),
        "train.steps": steps,
        "train.log_every": 1,
        "train.save_every": 4,
        "bridge.dropout": {"embedding": 0.1, "attention": 0.1, "hidden": 0.1},
    }
    path = folder / "soak.yaml"
    path.write_text(yaml.safe_dump(put(read_yaml(RECIPE), values)))
    return path


def steps_in(seconds: float, recipe: Path) -> int:
    """How many steps fit into a time, by a few that are thrown away."""
    config = check(put(read_yaml(recipe), {"train.steps": 100, "data.workers": 0}), str(recipe))
    trial = build_training(config, progress=lambda _done, _total: None)
    return max(20, int(seconds / measure_step(trial)))


def start(recipe: Path, output: Path) -> subprocess.Popen[bytes]:
    """The run in a process of its own, its lines in `<output>.txt`."""
    with output.with_suffix(".txt").open("ab") as lines:
        command = [sys.executable, "-m", "isthmus", "train", str(recipe), f"output={output}"]
        return subprocess.Popen(command, stdout=lines, stderr=lines)


def strike(process: subprocess.Popen[bytes], kind: str, draw: random.Random) -> bool:
    """Strike a run; False where it had no worker yet to be killed."""
    if kind == "worker":
        workers = psutil.Process(process.pid).children()
        if not workers:
            return False
        draw.choice(workers).kill()
    else:
        process.send_signal(getattr(signal, kind))
    return True


def train_under_fire(recipe: Path, output: Path, draw: random.Random) -> list[dict[str, Any]]:
    """Train until the run ends by itself; what was struck when, and how the process ended."""
    strikes: list[dict[str, Any]] = []
    process, begun = start(recipe, output), time.monotonic()
    while True:
        try:
            code = process.wait(timeout=draw.uniform(SHORTEST, LONGEST))
        except subprocess.TimeoutExpired:
            kind = draw.choice(KINDS)
            if not strike(process, kind, draw):
                continue
            code = process.wait(timeout=600)
            latest = output / "checkpoints" / "latest"
            kept = latest.read_text().strip() if latest.is_file() else "none"
            struck = {"seconds": round(time.monotonic() - begun, 1), "kind": kind, "exit": code, "checkpoint": kept}
            strikes.append(struck)
            print(json.dumps(struck), flush=True)
        else:
            if code == 0:
                return strikes
            raise SystemExit(f"the run ended with {code} and was not struck; see {output.with_suffix('.txt')}")
        process = start(recipe, output)


def told(output: Path) -> dict[int, dict[str, Any]]:
    """What the log says of each step, but for times; of a step that was taken twice, the last."""
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines() if line.endswith("}")]
    timeless = [
        {k: v for k, v in r.items() if k not in ("time", "seconds_per_step", "pairs_per_second")} for r in records
    ]
    return {record["step"]: record for record in timeless if "gradient_norm" in record}


def differences(one: Path, other: Path) -> list[str]:
    """The tensors and the steps in which two runs differ."""
    first, second = read_bridge(one / "bridge").tensors, read_bridge(other / "bridge").tensors
    tensors = [name for name in first if not torch.equal(first[name], second[name])]
    lines, others = told(one), told(other)
    return tensors + [
        f"step {step}" for step in sorted(lines.keys() | others.keys()) if lines.get(step) != others.get(step)
    ]


def main() -> None:
    """Run both, compare, and say so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="under the killer, about")
    parser.add_argument("--seed", type=int, default=0, help="of the killer")
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"))
    parser.add_argument("--pictures", type=Path, default=Path("runs/quickstart"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    prepare_pictures(given.pictures)
    steps = steps_in(60 * TRAINING_SHARE * given.minutes, write_recipe(given.folder, given.pictures, 100))
    recipe = write_recipe(given.folder, given.pictures, steps)
    alone, struck = given.folder / "undisturbed", given.folder / "under-fire"
    for output in (alone, struck):
        if output.exists():
            raise SystemExit(f"{output} is there already; remove it, or choose another --folder")
    begun = time.monotonic()
    if start(recipe, alone).wait() != 0:
        raise SystemExit(f"the undisturbed run failed; see {alone.with_suffix('.txt')}")
    quiet = time.monotonic() - begun
    print(f"{steps} steps undisturbed: {quiet:.0f} s", flush=True)
    begun = time.monotonic()
    strikes = train_under_fire(recipe, struck, random.Random(given.seed))
    fire, found = time.monotonic() - begun, differences(alone, struck)
    counts = {kind: sum(one["kind"] == kind for one in strikes) for kind in KINDS}
    summary = {"steps": steps, "undisturbed_seconds": round(quiet, 1), "under_fire_seconds": round(fire, 1)}
    summary |= {"struck": counts, "different": found}
    (given.folder / "soak.json").write_text(json.dumps({**summary, "strikes": strikes}, indent=2) + "\n")
    print(json.dumps(summary), flush=True)
    print("every tensor and every loss is the same" if not found else f"DIFFERENT: {', '.join(found[:10])}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()

"""A run that tells a tracker, in this process or, killed at its end, in one of its own (`python tracked_run.py`)."""

import json
import math
import os
import signal
import sys
from pathlib import Path

from accelerate import Accelerator

from isthmus.train.tracker_kinds import About
from isthmus.train.trackers import Before, open_trackers, tracker_options
from isthmus.train.tracking import JsonLines, last_run

PROJECT = "isthmus tests"
CONFIG = {"stage": 1, "train": {"lr": 1e-4, "steps": 10, "save_every": None, "trackers": ["x"]}, "seed": 0}
RECALL = "evaluation/text_to_image/R@1"
CHECKPOINT = 4


def loss(step, taken):
    """What is logged; the decimal says whether the step was taken for the first time."""
    return math.nan if step == 2 else step + taken / 10


def train(name, output, steps, *, state=None, taken=0, end=None):
    """Log every 2 steps and evaluate every 4; give the trackers' state at the checkpoint, or at the end without one.

    `end` is called with the state once all steps are taken, before anything is closed.
    """
    output, (start, stop) = Path(output), steps
    accelerator = Accelerator(cpu=True, **tracker_options([name], output))
    path = output / "log.jsonl"
    before = None if state is None else Before(state, start, last_run(path))
    about = About(PROJECT, output, CONFIG)
    with (
        open_trackers(accelerator, about, before=before, say=refuse) as trackers,
        JsonLines(path, also=trackers.write) as log,
    ):
        log.write({"start": "from a BERT", "device": "cpu"} if state is None else {"resume": {"step": start}})
        for step in range(start + 2, stop + 1, 2):
            log.write({"step": step, "itc": loss(step, taken), "lr": 0.1, "skipped": 0})
            if step % 4 == 0:
                log.write({"step": step, "evaluation": {"text_to_image": {"R@1": float(step)}, "drawn": "x"}})
            if step == CHECKPOINT:
                saved = trackers.state()
        found = trackers.state()
        if end is not None:
            end(saved)
    return found


def refuse(line):
    """No tracker may fail here."""
    raise AssertionError(line)


def die(state):
    """Say what the checkpoint holds, and be killed."""
    os.write(1, json.dumps(state).encode())
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2], (0, 8), end=die)

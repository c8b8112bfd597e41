"""A process of a run that trains nothing: it agrees at each of some steps, and at one of them a fault strikes a rank.

Usage: python faulty_rank.py FAULT [RANK] [MINUTES]    (RANK: whom it strikes; MINUTES: the run's timeout)
"""

import os
import signal
import sys
import time

import torch

from isthmus import distributed
from isthmus.build.processes import join
from isthmus.cli import ending
from isthmus.config.run import check

STEPS, WHEN = 6, 3
CONTENT = {
    "stage": 1,
    "output": "runs/none",
    "device": "cpu",
    "data": {"train": {"folder": "pictures"}},
    "encoder": {"kind": "timm", "name": "vit"},
    "bridge": {"bert": "folder:bert"},
}


def strike(fault: str) -> None:
    """What happens to a rank; a launcher that starts everything again sees it the first time only."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" or fault == "none":
        return
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(600)


def run(fault: str, struck: int) -> None:
    for step in range(STEPS):
        if step == WHEN and distributed.rank() == struck and fault not in ("late", "busy"):
            strike(fault)
        assert distributed.agree(1 << distributed.rank()) == (1 << distributed.world_size()) - 1
        if step == WHEN and fault == "late":  # the others have gone on, into a collective of the step
            if distributed.rank() == struck:
                strike("stop")
            distributed.reduce_sum(torch.ones(3))
    sys.stdout.write(f"rank {distributed.rank()} waits\n")
    sys.stdout.flush()
    if distributed.rank() == 1 and fault == "busy":
        time.sleep(600)
    distributed.wait()


def main(fault: str, struck: str = "1", minutes: str = "0.25") -> None:
    config = check({**CONTENT, "train": {"steps": 1, "batch_size": 2, "timeout_minutes": float(minutes)}}, "here")
    with distributed.telling():
        join(config)
        run(fault, int(struck))


if __name__ == "__main__":
    ending.run(lambda **_: main(*sys.argv[1:]))

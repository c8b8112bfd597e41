"""Bytes that each rank sends in a stage-1 step: by formula, and as the kernel counts them (docs/scaling.md).

    python -m benchmarks.traffic            both, side by side, on two and on three ranks of this machine
    python -m benchmarks.traffic --full     the same at BLIP-2's size: 4 GB of memory a rank
    python -m benchmarks.traffic --plan     the formula alone at BLIP-2's size, up to 1,000 ranks

The kernel counts what it has sent through each TCP connection of a process (`tcp_info`): payload and gloo's own 48
bytes a message, without headers of TCP and IP.
"""

import argparse
import json
import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from benchmarks.sides.ours import make_trainer
from isthmus.build.precision import Compute
from isthmus.models.bridge import Bridge
from isthmus.models.stage1 import Stage1, Stage1Options
from isthmus.qformer.layer import Dropouts
from isthmus.records import Batch, BridgeSizes, Identity, Text

STEPS, _STARTING = 3, 2  # of the first steps, one makes DDP's buckets anew
_FLOAT, _LONG, _STORED = 4, 8, 2
_BYTES_SENT = 200  # its place in the kernel's `struct tcp_info`


@dataclass(frozen=True)
class Work:
    """A step's sizes: B rows a rank, texts of T tokens, P patches as a store keeps them in bf16."""

    sizes: BridgeSizes
    rows: int
    tokens: int
    patches: int
    parameters: int
    exact: bool = True

    @property
    def embeddings(self) -> int:
        """Bytes of a rank's ITC embeddings in fp32: Q of an image and one of a text."""
        return self.rows * (self.sizes.queries + 1) * (self.sizes.shared_width or 0) * _FLOAT


SMALL = BridgeSizes(
    vision_width=256, width=192, layers=4, heads=3, feed_forward_width=768, queries=16, vocabulary=2000, shared_width=64
)
FULL = BridgeSizes(vision_width=1408)


def work_of(sizes: BridgeSizes, *, rows: int, patches: int, tokens: int = 12) -> Work:
    """The sizes of a step of a bridge."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in Bridge(sizes).parameters())
    return Work(sizes, rows, tokens, patches, parameters)


def travelling(rows: int, world: int) -> float:
    """How many rows of other ranks a rank needs for its B uniform negatives, each counted once: near B for many ranks.

    An anchor draws among the N - 1 others; a row of another rank is needed where any of the B anchors has drawn it.
    """
    total = rows * world
    return (total - rows) * (1 - (1 - 1 / (total - 1)) ** rows)


def predicted(work: Work, world: int) -> dict[str, float]:
    """Bytes that one rank sends in one step, by what they are.

    A ring hands each rank's piece on W - 1 times to gather, and twice (W - 1) / W of a tensor to sum it.
    """
    others = world - 1
    negatives = travelling(work.rows, world)
    return {
        "gradients": 2 * others / world * work.parameters * _FLOAT,
        "embeddings": others * work.embeddings,
        "their gradient": 2 * others * work.embeddings if work.exact else 0.0,
        "negatives' patches": negatives * work.patches * work.sizes.vision_width * _STORED,
        "negatives' texts": negatives * 2 * work.tokens * _LONG,
        "who is who, who is wanted": others * (2 * 3 * work.rows + 2 * work.rows + 1) * _LONG,
    }


def bytes_sent() -> int:
    """What the kernel has sent through all TCP connections of this process."""
    return sum(struct.unpack_from("=Q", info, _BYTES_SENT)[0] for info in _connections())


def _connections() -> Iterator[bytes]:
    for path in Path("/proc/self/fd").iterdir():
        try:
            if not str(path.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(path.name))) as one:
                if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
                    yield one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        except OSError:  # it was closed meanwhile, or only listens
            continue


def measured(work: Work, world: int) -> list[float]:
    """Bytes that each of W ranks of this machine has sent in a step, in the mean over some."""
    with tempfile.TemporaryDirectory() as place:
        spawn(_rank, (world, place, work), nprocs=world)
        return [json.loads(Path(place, str(rank)).read_text(encoding="utf-8")) for rank in range(world)]


def _rank(rank: int, world: int, place: str, work: Work) -> None:
    torch.set_num_threads(1)
    me, all_of_them = str(rank), str(world)  # as a launcher says it
    os.environ.update(RANK=me, LOCAL_RANK=me, WORLD_SIZE=all_of_them, LOCAL_WORLD_SIZE=all_of_them)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    meeting = Path(place, "meeting").as_uri()
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    bridge = Bridge(work.sizes, Dropouts(0.0, 0.0, 0.0))
    stage = Stage1(bridge, dec=work.sizes.vocabulary - 1, options=Stage1Options())
    trainer = make_trainer(stage, bridge, Compute(torch.device("cpu"), torch.float32))
    before = 0
    for number in range(_STARTING + STEPS):
        if number == _STARTING:
            before = bytes_sent()
        trainer.step([_batch(work, rank, number)], number)
    Path(place, str(rank)).write_text(json.dumps((bytes_sent() - before) / STEPS), encoding="utf-8")
    distributed.barrier()
    distributed.destroy_process_group()


def _batch(work: Work, rank: int, number: int) -> Batch:
    """Random rows that are all different things."""
    generator = torch.Generator().manual_seed(1000 * number + rank)
    index = torch.arange(work.rows) + work.rows * rank
    ids = torch.randint(3, work.sizes.vocabulary - 1, (work.rows, work.tokens), generator=generator)
    shape = (work.rows, work.patches, work.sizes.vision_width)
    return Batch(
        vision=torch.randn(shape, generator=generator).bfloat16(),
        captions=tuple(map(str, index.tolist())),
        text=Text(ids, torch.ones_like(ids, dtype=torch.bool)),
        identity=Identity(index, index),
        index=index,
    )


def _compare(work: Work) -> None:
    names = list(predicted(work, 2))
    print(f"B = {work.rows}, {work.parameters / 1e6:.1f} M parameters; bytes sent by a rank in a step\n")
    print("| ranks | " + " | ".join(names) + " | predicted | measured: least, most | measured / predicted |")
    print("|" + "---|" * (len(names) + 4))
    for world in (2, 3):
        parts, real = predicted(work, world), measured(work, world)
        total, mean = sum(parts.values()), sum(real) / world
        cells = [f"{value:,.0f}" for value in (*parts.values(), total)]
        print(
            f"| {world} | {' | '.join(cells)} | {min(real):,.0f}, {max(real):,.0f} | {mean / total:.4f} |", flush=True
        )


def _plan() -> None:
    names = list(predicted(work_of(FULL, rows=1, patches=257), 2))
    print("| ranks | B | N | " + " | ".join(names) + " | all, MB |")
    print("|" + "---|" * (len(names) + 4))
    for world, rows in ((2, 64), (8, 64), (64, 64), (256, 64), (1000, 64), (1000, 8), (1000, 2)):
        parts = predicted(work_of(FULL, rows=rows, patches=257), world)
        cells = [f"{value / 1e6:,.1f}" for value in (*parts.values(), sum(parts.values()))]
        print(f"| {world:,} | {rows} | {world * rows:,} | {' | '.join(cells)} |")


def main() -> None:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="measure at BLIP-2's size")
    parser.add_argument("--plan", action="store_true", help="print the formula up to 1,000 ranks")
    given = parser.parse_args()
    if given.plan:
        _plan()
    elif given.full:
        _compare(work_of(FULL, rows=4, patches=257))
    else:
        _compare(work_of(SMALL, rows=8, patches=65))


if __name__ == "__main__":
    main()

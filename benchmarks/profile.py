"""Where a stage-1 step of ours spends its time: python -m benchmarks.profile --dtype fp32 --threads 2

Times are a profiler's self times of one step after two; operations are put into groups by their names.
"""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.inputs import SCALES, write_rows, write_weights
from benchmarks.sides.ours_stage1 import OursStage1
from isthmus.checkpoints.keymap import lavis

GROUPS = {
    "matrix products": ("mm", "addmm", "bmm", "matmul", "linear"),
    "copies and casts": ("copy_", "cat", "index_select", "clone", "_to_copy", "contiguous", "fill_", "zero_"),
    "GELU": ("gelu", "gelu_backward"),
    "softmax and norms": (
        "_softmax",
        "_softmax_backward_data",
        "native_layer_norm",
        "native_layer_norm_backward",
        "logsumexp",
    ),
    "draws of dropout": ("random_", "ge", "bernoulli_"),
    "optimizer and norm of the gradient": ("_fused_adamw_", "linalg_vector_norm", "_foreach_norm"),
    "sums and products of elements": ("add", "add_", "mul", "mul_", "sum", "sub", "div", "div_", "exp_"),
}
REST = "everything else"


def main() -> None:
    """Print a table of one step."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scale", choices=SCALES, default="full")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    side, scale = OursStage1(), SCALES[given.scale]
    with tempfile.TemporaryDirectory() as name:
        write_weights(Path(name), scale.bridge, lavis(None))
        write_rows(Path(name), scale, given.batch, "11")
        side.load(Path(name), {"batch": given.batch, "dtype": given.dtype})
    for _ in range(2):
        side.step()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        side.step()
    for line in table([(event.key, event.self_cpu_time_total / 1e6) for event in recorded.key_averages()]):
        print(line)


def table(operations: Iterable[tuple[str, float]]) -> list[str]:
    """One line a group, the largest first; `operations` are names and their own seconds."""
    seconds: dict[str, float] = defaultdict(float)
    for name, own in operations:
        seconds[group_of(name)] += own
    total = sum(seconds.values())
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    return ["| part | seconds | share |", "|---|---|---|"] + [
        f"| {group} | {own:.3f} | {own / total:.1%} |" for group, own in ordered
    ]


def group_of(name: str) -> str:
    """The group of an operation."""
    bare = name.removeprefix("aten::")
    return next((group for group, names in GROUPS.items() if bare in names), REST)


if __name__ == "__main__":
    main()

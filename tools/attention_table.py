"""Measure the ways to compute attention of which `qformer/attention.py` chooses one (docs/adr/0010).

Usage: OMP_NUM_THREADS=2 python tools/attention_table.py

Prints, for the shapes of a Q-Former and each precision, milliseconds (median of seven) of the fused call and of plain
products, forward alone and with the backward, without and with dropout.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from isthmus.qformer import attention

# rows x heads x queries x keys x width
SHAPES = {
    "image pass, self": (8, 12, 32, 32, 64),
    "image pass, cross": (8, 12, 32, 257, 64),
    "ITM, self": (24, 12, 43, 43, 64),
    "ITM, cross, three rows an image": (1, 12, 96, 257, 64),
    "re-ranking, cross, 128 texts an image": (1, 12, 4096, 257, 64),
    "quickstart ITM, self": (192, 12, 24, 24, 32),
    "quickstart, cross": (64, 12, 16, 49, 32),
}
REPEATS, SHARE = 7, 0.1


def fused(query: Tensor, key: Tensor, value: Tensor, share: float) -> Tensor:
    """Torch's own call."""
    return F.scaled_dot_product_attention(query, key, value, dropout_p=share)


def plain(query: Tensor, key: Tensor, value: Tensor, share: float) -> Tensor:
    """Products and a softmax, with the backward of `qformer/attention.py`."""
    attended: Tensor = attention._Plain.apply(query, key, value, None, share)
    return attended


def milliseconds(compute: Callable[[], object]) -> float:
    """The median of some runs after one."""
    compute()
    taken = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        compute()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken) * 1e3


def line(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> str:
    """One row of the table."""
    rows, heads, queries, keys, width = shape
    given = [torch.randn(rows, heads, length, width, dtype=dtype) for length in (queries, keys, keys)]
    learned = [tensor.clone().requires_grad_() for tensor in given]
    cells = []
    with torch.no_grad():
        cells.append(" / ".join(f"{milliseconds(lambda way=way: way(*given, 0.0)):.1f}" for way in (fused, plain)))
    for share in (0.0, SHARE):

        def both(way: Callable[..., Tensor], share: float = share) -> None:
            way(*learned, share).sum().backward()

        cells.append(" / ".join(f"{milliseconds(lambda way=way: both(way)):.1f}" for way in (fused, plain)))
    return f"| {name}, {'x'.join(map(str, shape))} | {str(dtype).removeprefix('torch.')} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    print("| shape | precision | forward, fused / plain, ms | and backward | and backward under dropout |")
    print("|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        for name, shape in SHAPES.items():
            print(line(name, shape, dtype), flush=True)


if __name__ == "__main__":
    main()

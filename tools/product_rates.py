"""Measure the rate of the matrix products of a stage-1 step, of few rows and of many.

Usage: OMP_NUM_THREADS=2 python tools/product_rates.py

Prints GFLOP/s of the forward product, of the gradient of what went in, and of the weight's, for the rows that the
passes of batch 8 and captions of 11 tokens have: ITM 1,032, image 256, text 88, ITG 80, the image's keys and values
2,056.
"""

import time
from collections.abc import Callable

import torch

# rows x width in x width out
SHAPES = (
    (1032, 768, 768),
    (1032, 768, 3072),
    (1032, 3072, 768),
    (256, 768, 768),
    (256, 768, 3072),
    (88, 768, 3072),
    (80, 768, 768),
    (80, 768, 3072),
    (2056, 1408, 768),
    (80, 768, 30_523),
)
_WORK = 4e10


def rate(compute: Callable[[], object], operations: int) -> float:
    """GFLOP/s over enough repeats, after two."""
    repeats = max(3, int(_WORK / operations))
    for _ in range(2):
        compute()
    begun = time.perf_counter()
    for _ in range(repeats):
        compute()
    return operations * repeats / (time.perf_counter() - begun) / 1e9


def main() -> None:
    """Print a table."""
    print("| rows x in x out | precision | forward | gradient of the input | gradient of the weight |")
    print("|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        for rows, inner, outer in SHAPES:
            x, gradient = torch.randn(rows, inner, dtype=dtype), torch.randn(rows, outer, dtype=dtype)
            weight, bias = torch.randn(outer, inner, dtype=dtype), torch.randn(outer, dtype=dtype)
            ways: tuple[Callable[[], object], ...] = (
                lambda x=x, weight=weight, bias=bias: torch.addmm(bias, x, weight.t()),  # type: ignore[misc]
                lambda gradient=gradient, weight=weight: gradient @ weight,  # type: ignore[misc]
                lambda gradient=gradient, x=x: gradient.t() @ x,  # type: ignore[misc]
            )
            cells = " | ".join(f"{rate(way, 2 * rows * inner * outer):.0f}" for way in ways)
            name = str(dtype).removeprefix("torch.")
            print(f"| {rows} x {inner} x {outer} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()

"""The learning rate, as a share of its peak: a linear rise, then half a cosine, per optimizer step."""

import math


def share_of_peak(step: int, *, steps: int, warmup: int, lowest: float) -> float:
    """Share for optimizer step `step` (from 0) of `steps`; `warmup` steps rise, the cosine ends at `lowest`.

    Source: BLIP-2 §4.1 (cosine after linear warm-up).
    """
    if step < warmup:
        return (step + 1) / warmup
    through = (step - warmup) / max(1, steps - warmup)
    return lowest + (1 - lowest) * (1 + math.cos(math.pi * through)) / 2

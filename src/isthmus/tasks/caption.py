"""Captions of a set of pictures, and how many are right."""

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.records import Batch

Captioner = Callable[[Float[Tensor, "B P V"]], list[str]]
"""Patches → one caption each."""


def caption_all(captioner: Captioner, batches: Iterable[Batch], device: torch.device) -> list[tuple[str, str]]:
    """Caption every picture; pairs of (what was said, what stands in the source)."""
    pairs: list[tuple[str, str]] = []
    for batch in batches:
        said = captioner(batch.vision.to(device, non_blocking=True))
        pairs.extend(zip(said, batch.captions, strict=True))
    return pairs


def exact_match(pairs: Sequence[tuple[str, str]]) -> float:
    """Per cent of captions equal to the source's, case and surrounding white space aside."""
    right = sum(said.strip().lower() == true.strip().lower() for said, true in pairs)
    return 100 * right / max(1, len(pairs))

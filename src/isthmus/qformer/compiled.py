"""The verbs through torch.compile, in training alone: an option, since what it gains depends on the device.

Each verb is one graph, without a break. Under compilation texts stay padded and selected memories are copied, because a
graph knows neither how long a text is nor which image was drawn.
"""

from collections.abc import Callable
from typing import Any

import torch

from isthmus.qformer.qformer import QFormer

VERBS = ("encode_image", "encode_text", "fuse", "decode")


def compile_verbs(qformer: QFormer, *, backend: str | Callable[..., Any] = "inductor") -> None:
    """Replace the verbs of one Q-Former; its parameters and their names stay."""
    for name in VERBS:
        plain = getattr(qformer, name)
        setattr(qformer, name, _in_training(qformer, plain, torch.compile(plain, backend=backend, fullgraph=True)))


def _in_training(qformer: QFormer, plain: Callable[..., Any], compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Evaluation and generation see every shape there is, and would compile for each."""

    def verb(*given: Any, **named: Any) -> Any:
        return (compiled if qformer.training and torch.is_grad_enabled() else plain)(*given, **named)

    return verb

"""Cross-entropy of tokens from the states that predict them, without keeping a logit.

A frozen head needs no gradient of its own, and each token's loss depends on its own state alone. So a chunk of states
makes its logits, its losses and their gradient by the states in one go, and of all that is as wide as the vocabulary
nothing outlives its chunk: what stays for the backward is one gradient (K L) in place of logits and log-probabilities.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK_BYTES = 2**27
"""Logits of a chunk, in fp32 at least. Every chunk reads the whole head, so it should not be small: 128 MiB are 220
rows of a vocabulary of 152,000, and from 208 on a product in bf16 on an A100 is bound by arithmetic, not by memory."""

Head = Callable[[Tensor], Tensor]


def token_losses(logits: Float[Tensor, "K vocabulary"], ids: Int[Tensor, " K"]) -> Float[Tensor, " K"]:
    """Each token's cross-entropy, in fp32 at least."""
    return F.cross_entropy(logits.to(_precise(logits.dtype)), ids, reduction="none")


def losses_of_states(
    head: Head, states: Float[Tensor, "K L"], ids: Int[Tensor, " K"], *, vocabulary: int
) -> Float[Tensor, " K"]:
    """Each token's cross-entropy, where `head` makes logits of states, row by row; no gradient reaches the head.

    The gradient can be taken once: it has none itself.
    """
    rows = max(1, CHUNK_BYTES // (vocabulary * _precise(states.dtype).itemsize))
    chunks = ids.tensor_split(max(1, -(-len(ids) // rows)))
    if torch.is_grad_enabled() and states.requires_grad:
        losses: Tensor = _WithGradient.apply(states, chunks, head)
        return losses
    pairs = zip(states.tensor_split(len(chunks)), chunks, strict=True)
    return torch.cat([token_losses(head(some), wanted) for some, wanted in pairs])


def _with_gradient(
    logits: Float[Tensor, "K vocabulary"], ids: Int[Tensor, " K"]
) -> tuple[Float[Tensor, " K"], Float[Tensor, "K vocabulary"]]:
    """Give `token_losses` and their gradient, probability less one at the token, in the memory of one log-softmax."""
    logs = logits.to(_precise(logits.dtype)).log_softmax(1)
    losses = -logs.gather(1, ids[:, None])
    gradient = logs.exp_().scatter_add_(1, ids[:, None], -torch.ones_like(losses))
    return losses[:, 0], gradient.to(logits.dtype)


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class _WithGradient(torch.autograd.Function):
    """Losses whose gradient is computed beside them, while a chunk's logits are there."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, chunks: tuple[Tensor, ...], head: Head) -> Tensor:
        losses: list[Tensor] = []
        gradients: list[Tensor] = []
        for part, wanted in zip(states.tensor_split(len(chunks)), chunks, strict=True):
            with torch.enable_grad():
                some = part.detach().requires_grad_()
                logits = head(some)
            lost, gradient = _with_gradient(logits.detach(), wanted)
            losses.append(lost)
            gradients += torch.autograd.grad(logits, some, gradient)
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (weights[:, None] * gradient).to(gradient.dtype), None, None

"""The one attention function of the Q-Former, and the table that chooses how it is computed.

The table is data that ships with the package: nothing is timed at run time, so a run is reproducible.
Rows follow measurements (docs/adr/0010-attention-table.md): on a CPU, training takes plain products, since forward and
backward through torch's fused attention take up to nine times as long; prediction takes them where few keys are looked
at or bf16 is computed in, and the fused call where there are many scores. CUDA has fused kernels for all.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from isthmus.qformer.dropout import as_factor, draw_kept

TABLE_VERSION = 2
SHORT, LONG, LARGE = "short", "long", "large"
_SHORT_KEYS, _LARGE_SCORES = 48, 4 * 2**20

# What is not listed is fused.
_TRAINING = {"cpu": "plain"}
_PREDICTION = {
    ("cpu", torch.bfloat16, SHORT): "plain",
    ("cpu", torch.bfloat16, LONG): "plain",
    ("cpu", torch.float32, SHORT): "plain",
}


def shape_class(rows: int, queries: int, keys: int) -> str:
    """`large`: too many scores for a cache; else `short` or `long` by the keys. Every head of a batch is a row."""
    if rows * queries * keys > _LARGE_SCORES:
        return LARGE
    return SHORT if keys <= _SHORT_KEYS else LONG


def choose(device: torch.device, dtype: torch.dtype, shape: str, *, trains: bool) -> str:
    """Name the kernel that the table gives: `plain` or `fused`."""
    if trains:
        return _TRAINING.get(device.type, "fused")
    return _PREDICTION.get((device.type, dtype, shape), "fused")


def attention(
    query: Float[Tensor, "B H S d"],
    key: Float[Tensor, "B H K d"],
    value: Float[Tensor, "B H K d"],
    *,
    bias: Float[Tensor, "..."] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "B H S d"]:
    """Scaled dot-product attention; `bias` is added to the scores and broadcasts to (B H S K); no gradient reaches it.

    Source: Vaswani et al. 2017, §3.2.1.
    """
    trains = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
    shape = shape_class(query.shape[0] * query.shape[1], query.shape[2], key.shape[2])
    if choose(query.device, query.dtype, shape, trains=trains) == "fused":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
    if torch.compiler.is_compiling() or not trains:
        return F.dropout(attention_weights(query, key, bias=bias), dropout, training=dropout > 0) @ value
    with torch.autocast(query.device.type, enabled=False):
        attended: Tensor = _Plain.apply(query, key, value, bias, dropout)
    return attended


def attention_weights(
    query: Float[Tensor, "B H S d"],
    key: Float[Tensor, "B H K d"],
    *,
    bias: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "B H S K"]:
    """The probabilities with which each row looks at each column; the softmax computes in fp32 or better."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    weights: Tensor = (scores if bias is None else scores + bias).softmax(dim=-1)
    return weights


class _Plain(torch.autograd.Function):
    """Products and a softmax that keep one tensor of weights and, under dropout, one byte for each of them.

    Autograd's own chain of the same operations keeps the weights three times: before and after dropout, and a mask.
    """

    @staticmethod
    def forward(  # ruff: ignore[too-many-positional-arguments]  # apply() takes nothing by name
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float
    ) -> Float[Tensor, "B H S d"]:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        weights = attention_weights(query, key, bias=bias)
        kept, scale = draw_kept(weights.shape, dropout) if dropout else (None, 1.0)
        ctx.save_for_backward(query, key, value, weights, kept)
        ctx.scale = scale
        return (weights if kept is None else weights * as_factor(kept, scale, weights.dtype)) @ value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, weights, kept = ctx.saved_tensors
        gradient, dropped, size = gradients[0].contiguous(), weights, query.shape[-1] ** -0.5
        of_weights = gradient @ value.transpose(-1, -2)
        if kept is not None:
            factor = as_factor(kept, ctx.scale, weights.dtype)
            of_weights.mul_(factor)
            dropped = factor.mul_(weights)
        of_value = dropped.transpose(-1, -2) @ gradient
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype).mul_(size)
        return of_scores @ key, of_scores.transpose(-1, -2) @ query, of_value, None, None

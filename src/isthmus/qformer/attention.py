"""The one attention function of the Q-Former, and the table that chooses how it is computed.

The table is data that ships with the package: nothing is timed at run time, so a run is reproducible.
Rows follow measurements (docs/log.md): forward and backward through
torch's fused attention take 1.2 to 4 times as long as plain products on a CPU, while inference in bf16 is
faster fused. CUDA has fused kernels for both.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

TABLE_VERSION = 1
# (device type, trains) -> fused or plain; a device that is not listed takes the fused call.
_TABLE = {("cpu", True): "plain", ("cpu", False): "fused", ("cuda", True): "fused", ("cuda", False): "fused"}


def choose(device: torch.device, *, trains: bool) -> str:
    """Name the kernel that the table gives for a device: `plain` or `fused`."""
    return _TABLE.get((device.type, trains), "fused")


def attention(
    query: Float[Tensor, "B H S d"],
    key: Float[Tensor, "B H K d"],
    value: Float[Tensor, "B H K d"],
    *,
    bias: Float[Tensor, "..."] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "B H S d"]:
    """Scaled dot-product attention; `bias` is added to the scores and broadcasts to (B H S K).

    Source: Vaswani et al. 2017, §3.2.1.
    """
    trains = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
    if choose(query.device, trains=trains) == "fused":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
    weights = attention_weights(query, key, bias=bias)
    return F.dropout(weights, dropout, training=dropout > 0) @ value


def attention_weights(
    query: Float[Tensor, "B H S d"],
    key: Float[Tensor, "B H K d"],
    *,
    bias: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "B H S K"]:
    """The probabilities with which each row looks at each column; softmax in fp32 or better."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias
    precise = torch.promote_types(scores.dtype, torch.float32)
    weights: Tensor = scores.softmax(dim=-1, dtype=precise)
    return weights.to(query.dtype)

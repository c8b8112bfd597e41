"""The projection's start: random at the language model's scale, or by least squares.

Least squares maps query states to the mean embedding of their caption's tokens (ridge). Its weight is scaled so that
what it makes of the states, their mean included, spreads half as far as the embeddings do: the first soft prompt
already lies where the language model reads (docs/log.md).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

RIDGE = 1e-2
SPREAD = 0.5


@torch.no_grad()
def start_random(projection: nn.Linear, *, scale: float, seed: int) -> None:
    """Draw weights so that unit-variance states come out with standard deviation `scale`; biases start at 0."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.empty(projection.weight.shape).normal_(0, 1, generator=generator)
    projection.weight.copy_(drawn * scale / projection.in_features**0.5)
    projection.bias.zero_()


@torch.no_grad()
def start_least_squares(
    projection: nn.Linear, states: Float[Tensor, "B Q D"], targets: Float[Tensor, "B L"], *, scale: float
) -> None:
    """Fit the projection from each of B images' query states to its target; `scale` is the embeddings' spread."""
    inputs = states.double().flatten(0, 1)
    outputs = targets.double().repeat_interleave(states.shape[1], dim=0)
    mean_in, mean_out = inputs.mean(0), outputs.mean(0)
    centred = inputs - mean_in
    gram = centred.T @ centred
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight = torch.linalg.solve(gram, centred.T @ (outputs - mean_out))
    shrink = SPREAD * scale / (inputs @ weight).std().clamp_min(torch.finfo(torch.float32).tiny)
    projection.weight.copy_(weight.T * shrink)
    projection.bias.copy_(mean_out - shrink * (mean_in @ weight))

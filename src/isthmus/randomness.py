"""Counter-based randomness: every draw is a pure function of its key, never of what was drawn before.

A draw is keyed by integers such as (seed, epoch, index); whoever computes it, on any rank, worker or resume,
gets the same number (DESIGN 5.8). Keys may be tensors, which broadcast, so a whole matrix of draws is one call
on the device without a host sync. The mixing function is splitmix64's finalizer (Steele, Lea, Flood 2014).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MANTISSA = 52  # one less than fp64 holds, so that adding a half never rounds up to 1


def _signed(word: int) -> int:
    """The int64 with the same 64 bits."""
    word &= (1 << 64) - 1
    return word - (1 << 64) if word >> 63 else word


def _shift(word: Int[Tensor, "..."], bits: int) -> Int[Tensor, "..."]:
    """Logical right shift: torch's own is arithmetic on int64."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)


def hash64(*key: int | Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Mix the words of a key, in order, into one int64 per broadcast element."""
    device = next((word.device for word in key if isinstance(word, Tensor)), torch.device("cpu"))
    state = torch.zeros((), dtype=torch.int64, device=device)
    for word in key:
        term = word.to(torch.int64) if isinstance(word, Tensor) else _signed(word)
        state = (state ^ term) + _signed(_GAMMA)
        state = (state ^ _shift(state, 30)) * _signed(_MIX_1)
        state = (state ^ _shift(state, 27)) * _signed(_MIX_2)
        state = state ^ _shift(state, 31)
    return state


def uniform(*key: int | Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Draw fp64 numbers in the open interval (0, 1), one per broadcast element of the key."""
    return (_shift(hash64(*key), 64 - _MANTISSA).to(torch.float64) + 0.5) / float(1 << _MANTISSA)


def gumbel(*key: int | Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Draw standard Gumbel noise in fp32: arg-max of log-weight plus it samples by weight."""
    return -(-uniform(*key).log()).log().to(torch.float32)


def permutation(length: int, *key: int) -> Int[Tensor, " length"]:
    """Order 0 … length - 1 by keyed draws: a pure function of length and key."""
    return hash64(*key, torch.arange(length)).argsort(stable=True)

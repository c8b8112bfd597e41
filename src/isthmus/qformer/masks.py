"""The three attention masks of BLIP-2 (§3.2, figure 2), by the paper's names.

Each function returns `mask[b, row, column]`: True where the token of a row may look at the token of a column.
Queries stand first, text after them. In the drawings q are queries, t text tokens, x a token that is padding;
`1` may look, `.` may not. Padding is never looked at; a padding row itself looks where its text neighbours do,
so that it stays finite, and nothing reads what it computes.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def unimodal(queries: int, text_mask: Bool[Tensor, "B T"]) -> Bool[Tensor, "B S S"]:
    """Keep queries and text apart: the mask of ITC.

    Two queries, three text tokens, the last one padding::

             q q t t x
        q    1 1 . . .
        q    1 1 . . .
        t    . . 1 1 .
        t    . . 1 1 .
        x    . . 1 1 .

    Source: BLIP-2 §3.2, image-text contrastive learning.
    """
    query_columns = _query_columns(queries, text_mask)
    text_columns = ~query_columns & _present(queries, text_mask)
    is_query = torch.arange(query_columns.shape[-1], device=text_mask.device) < queries
    return torch.where(is_query[None, :, None], query_columns, text_columns)


def bidirectional(queries: int, text_mask: Bool[Tensor, "B T"]) -> Bool[Tensor, "B S S"]:
    """Let everything look at everything: the mask of ITM.

    Two queries, three text tokens, the last one padding::

             q q t t x
        q    1 1 1 1 .
        q    1 1 1 1 .
        t    1 1 1 1 .
        t    1 1 1 1 .
        x    1 1 1 1 .

    Source: BLIP-2 §3.2, image-text matching.
    """
    present = _present(queries, text_mask)
    return present.expand(-1, present.shape[-1], -1)


def multimodal_causal(queries: int, text_mask: Bool[Tensor, "B T"]) -> Bool[Tensor, "B S S"]:
    """Queries look at queries; a text token looks at all queries and at text up to itself: the mask of ITG.

    Two queries, three text tokens, the last one padding::

             q q t t x
        q    1 1 . . .
        q    1 1 . . .
        t    1 1 1 . .
        t    1 1 1 1 .
        x    1 1 1 1 .

    Source: BLIP-2 §3.2, image-grounded text generation; the mask of UniLM.
    """
    query_columns = _query_columns(queries, text_mask)
    position = torch.arange(query_columns.shape[-1], device=text_mask.device)
    causal = position[:, None] >= position[None, :]
    return query_columns | (causal & _present(queries, text_mask))


def additive(mask: Bool[Tensor, "..."], dtype: torch.dtype) -> Float[Tensor, "..."]:
    """Turn a mask into what is added to attention scores: 0 where it may look, the lowest finite number else."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def _query_columns(queries: int, text_mask: Bool[Tensor, "B T"]) -> Bool[Tensor, "B 1 S"]:
    """True on the columns of queries."""
    columns = torch.arange(queries + text_mask.shape[1], device=text_mask.device) < queries
    return columns.expand(text_mask.shape[0], 1, -1)


def _present(queries: int, text_mask: Bool[Tensor, "B T"]) -> Bool[Tensor, "B 1 S"]:
    """True on the columns of queries and of text that is not padding."""
    return torch.cat([text_mask.new_ones(text_mask.shape[0], queries), text_mask], dim=1)[:, None]

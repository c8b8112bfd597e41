"""Rows → one Batch, with the hashes that say which rows are the same thing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.data.text import caption_identity
from isthmus.fingerprint import text_identity
from isthmus.records import Batch, Identity, Text

Tokenize = Callable[[Sequence[str]], Text]
"""Normalised captions → the Q-Former's tokens; passed in, since data knows no tokenizer."""


@dataclass(frozen=True)
class Row:
    """One row of a step: its picture as patches or pixels, the caption chosen, and the keys of both."""

    vision: Float[Tensor, "..."]
    caption: str
    image_id: str
    index: int


def collate(rows: Sequence[Row], *, tokenize: Tokenize) -> Batch:
    """Stack rows, in order, into a Batch; `vision` keeps its dtype."""
    captions = tuple(row.caption for row in rows)
    identity = Identity(
        image=torch.tensor([text_identity(row.image_id) for row in rows]),
        caption=torch.tensor([caption_identity(caption) for caption in captions]),
    )
    return Batch(
        vision=torch.stack([row.vision for row in rows]),
        captions=captions,
        text=tokenize(captions),
        identity=identity,
        index=torch.tensor([row.index for row in rows]),
    )

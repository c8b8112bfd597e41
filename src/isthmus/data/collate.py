"""Rows → one Batch, with the hashes that say which rows are the same thing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isthmus.data.broken import Bad
from isthmus.fingerprint import text_identity
from isthmus.records import Batch, Identity, Text

Tokenize = Callable[[Sequence[str]], Text]
"""Normalised captions or questions → the Q-Former's tokens; passed in, since data knows no tokenizer."""


@dataclass(frozen=True)
class Row:
    """One row of a step: its picture as patches or pixels, the caption chosen, and the keys of both.

    `bad` are the pictures that could not be read and in whose place this one stands; `question` is what the caption
    answers, if it does; `epoch` is how often the row was drawn before; `counted` as of `isthmus.data.sampler.Visit`.
    """

    vision: Float[Tensor, "..."]
    caption: str
    image_id: str
    index: int
    bad: tuple[Bad, ...] = ()
    question: str | None = None
    counted: bool | None = None
    epoch: int = 0


def collate(rows: Sequence[Row], *, tokenize: Tokenize) -> Batch:
    """Stack rows, in order, into a Batch; `vision` keeps its dtype.

    Captions are the same when the Q-Former reads the same tokens: after lower-casing and the cut at its longest text.
    Either every row has a question or none has, and so with `counted`.
    """
    questions = tuple(row.question for row in rows if row.question is not None)
    assert len(questions) in (0, len(rows))
    counted = [row.counted for row in rows if row.counted is not None]
    assert len(counted) in (0, len(rows))
    captions = tuple(row.caption for row in rows)
    text = tokenize(captions)
    identity = Identity(
        image=torch.tensor([text_identity(row.image_id) for row in rows]),
        caption=caption_identity(text),
    )
    return Batch(
        vision=torch.stack([row.vision for row in rows]),
        captions=captions,
        text=text,
        identity=identity,
        index=torch.tensor([row.index for row in rows]),
        questions=questions or None,
        instruction=tokenize(questions) if questions else None,
        counted=torch.tensor(counted) if counted else None,
        epoch=torch.tensor([row.epoch for row in rows]),
    )


def caption_identity(text: Text) -> Int[Tensor, " B"]:
    """Hash the tokens that the Q-Former reads of each caption: equal hashes, equal captions."""
    return torch.tensor([_token_identity(ids[mask]) for ids, mask in zip(text.ids, text.mask, strict=True)])


def _token_identity(ids: Int[Tensor, " T"]) -> int:
    return text_identity(" ".join(map(str, ids.tolist())))

"""The Q-Former's tokenizer: BERT's WordPiece with `[DEC]` added as the token that starts generation."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import AutoTokenizer

from isthmus.errors import TowerError
from isthmus.records import Text

MAX_TOKENS = 32


class QFormerTokenizer:
    """Text → ids with [CLS] first and [SEP] last, at most `max_tokens` tokens, cut on the folder's own side.

    That is the right for a BERT's, as for the original's captions; its instructions are cut on the left. `cut` is
    another side, which is saved with the tokenizer.
    """

    def __init__(
        self, folder: Path, *, max_tokens: int = MAX_TOKENS, cut: Literal["left", "right"] | None = None
    ) -> None:
        side = {} if cut is None else {"truncation_side": cut}
        try:
            self.inner = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, **side)
        except (OSError, ValueError) as problem:
            raise TowerError(
                f"no BERT tokenizer could be read from {folder}; give a folder with tokenizer.json or vocab.txt"
            ) from problem
        for name in ("cls_token", "sep_token", "pad_token"):
            if getattr(self.inner, name) is None:
                raise TowerError(f"the tokenizer in {folder} has no {name}; give the tokenizer of a BERT")
        self.inner.add_special_tokens({"bos_token": "[DEC]"})
        self.max_tokens = max_tokens

    @property
    def vocabulary(self) -> int:
        """How many ids there are, `[DEC]` included."""
        return len(self.inner)

    @property
    def cls(self) -> int:
        """The id of `[CLS]`."""
        return int(self.inner.cls_token_id)

    @property
    def dec(self) -> int:
        """The id of `[DEC]`."""
        return int(self.inner.bos_token_id)

    @property
    def sep(self) -> int:
        """The id of `[SEP]`, which ends a generated caption."""
        return int(self.inner.sep_token_id)

    def __call__(self, texts: Sequence[str]) -> Text:
        """Tokenize texts, padded to the longest; a "[SEP]" that somebody wrote in one is text, and ends nothing."""
        rows = self.inner(
            list(texts), truncation=True, max_length=self.max_tokens, padding=False, split_special_tokens=True
        )["input_ids"]
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), int(self.inner.pad_token_id))
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
            mask[number, : len(row)] = True
        return Text(ids, mask)

    def decode(self, ids: Int[Tensor, " T"]) -> str:
        """Ids → text without special tokens."""
        return str(self.inner.decode(ids, skip_special_tokens=True)).strip()

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files."""
        self.inner.save_pretrained(str(folder))


def for_generation(text: Text, dec: int) -> Text:
    """Replace the first token, [CLS], by [DEC]: the text of ITG."""
    ids = text.ids.clone()
    ids[:, 0] = dec
    return replace(text, ids=ids)

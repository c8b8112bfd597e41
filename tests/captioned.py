"""A source of pictures with several captions each, for the rows of `tiny_batch`, and a tokenizer for them."""

from pathlib import Path

import torch

from bridges import CLS, SEP
from isthmus.records import Example, Text


class Captioned:
    """Examples of captions and things as they are given; the first is number 10, as in `tiny_batch`."""

    def __init__(self, captions, things):
        self.examples = [Example(Path(f"{t}.png"), t, c) for c, t in zip(captions, things, strict=True)]

    def __getitem__(self, index):
        return self.examples[index - 10]

    def __len__(self):
        return len(self.examples)


def tokenize(captions):
    """One token per letter, [CLS] before and [SEP] after."""
    rows = [[CLS, *(4 + ord(letter) % 8 for letter in caption), SEP] for caption in captions]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return Text(ids, torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows]))

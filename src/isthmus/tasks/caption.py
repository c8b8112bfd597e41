"""Captions of a set of pictures, and how many are right."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from isthmus.data.text import normalise
from isthmus.fingerprint import text_identity
from isthmus.records import Batch, Source

PatchCaptioner = Callable[[Float[Tensor, "B P V"]], list[str]]
"""Patches → one caption each."""

NORMALISER = 1
"""The version of `normal_form`; a change of its rules is a new number."""

_APOSTROPHES = {0x27: None, 0x2019: None}
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@dataclass(frozen=True)
class Caption:
    """What was said of a picture, and what stands in the source: its references; `image_id` names the thing.

    Where the picture was asked about, both are answers to `question`.
    """

    said: str
    references: tuple[str, ...]
    image_id: str
    question: str | None = None

    @property
    def shown(self) -> tuple[str, ...]:
        """What was said beside the first reference, and what was asked."""
        asked = () if self.question is None else (self.question,)
        return (self.said, self.references[0], *asked)


def caption_all(
    captioner: PatchCaptioner, batches: Iterable[Batch], source: Source, *, device: torch.device
) -> list[Caption]:
    """Caption every picture, in the source's order."""
    captions: list[Caption] = []
    for batch in batches:
        said = captioner(batch.vision.to(device, non_blocking=True))
        for text, index in zip(said, batch.index.tolist(), strict=True):
            example = source[index]
            captions.append(Caption(text, tuple(map(normalise, example.captions)), example.image_id))
    return captions


def exact(captions: Sequence[Caption]) -> Bool[Tensor, " N"]:
    """True where a caption equals one of its references, case and surrounding white space aside."""
    return _equal(captions, lambda text: text.strip().lower())


def normalised(captions: Sequence[Caption]) -> Bool[Tensor, " N"]:
    """True where the normal form of a caption is that of one of its references; an empty form matches none."""
    return _equal(captions, normal_form)


def normal_form(text: str) -> str:
    """Version 1: NFKC, lower case, apostrophes out, other punctuation to a space, no articles, single spaces."""
    folded = unicodedata.normalize("NFKC", text).lower().translate(_APOSTROPHES)
    spaced = "".join(" " if unicodedata.category(letter).startswith("P") else letter for letter in folded)
    return " ".join(_ARTICLES.sub(" ", spaced).split())


def pictured(captions: Sequence[Caption]) -> Int[Tensor, " N"]:
    """The identity of each caption's picture."""
    return torch.tensor([text_identity(caption.image_id) for caption in captions], dtype=torch.int64)


def _equal(captions: Sequence[Caption], form: Callable[[str], str]) -> Bool[Tensor, " N"]:
    found = (form(c.said) != "" and form(c.said) in map(form, c.references) for c in captions)
    return torch.tensor(list(found), dtype=torch.bool)

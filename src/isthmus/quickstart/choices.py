"""Which rows the report shows: always the first of a keyed order, never picked by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from isthmus.fingerprint import text_identity
from isthmus.randomness import permutation
from isthmus.tasks.caption import Caption, normal_form, normalised
from isthmus.tasks.retrieval import Embedded, ranks

Grade = Literal["right", "near", "wrong"]
GRADES: tuple[Grade, ...] = ("right", "near", "wrong")
NEAREST = 5
_FUNCTION_WORDS = "a an and at by for from in into of off on or over the through to under up with without"
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Words that two captions may share without being near."""


@dataclass(frozen=True)
class Found:
    """One answer: a drawing with its name, or a name alone; `cosine` is ITC's."""

    name: str
    picture: str | None
    right: bool
    cosine: float


@dataclass(frozen=True)
class Strip:
    """One question, a name or a drawing, with the nearest answers; `place` is that of the first right one, from 1."""

    name: str
    picture: str | None
    place: int
    nearest: list[Found]


@dataclass(frozen=True)
class Said:
    """One picture and what was said of it."""

    picture: str
    name: str
    said: str


def keyed_order(length: int, purpose: str) -> list[int]:
    """Positions 0 … length - 1 in the order that a purpose of the report is a key to."""
    order: list[int] = permutation(length, text_identity(f"report: {purpose}")).tolist()
    return order


def names_asked(embedded: Embedded, pictures: Sequence[str], *, count: int) -> list[Strip]:
    """Names with their nearest drawings by ITC alone: the first few names of the keyed order."""
    similarity, same, strips = embedded.similarity().T, embedded.same().T, []
    for text in keyed_order(len(embedded.texts), "names")[:count]:
        best, place = _nearest(similarity[text], same[text])
        found = [
            Found(_name_of(embedded, image), pictures[image], bool(same[text, image]), float(similarity[text, image]))
            for image in best
        ]
        strips.append(Strip(embedded.captions[text], None, place, found))
    return strips


def drawings_asked(embedded: Embedded, pictures: Sequence[str], *, count: int) -> list[Strip]:
    """Drawings with their nearest names by ITC alone: the first few drawings of the keyed order."""
    similarity, same, strips = embedded.similarity(), embedded.same(), []
    for image in keyed_order(len(pictures), "drawings")[:count]:
        best, place = _nearest(similarity[image], same[image])
        found = [
            Found(embedded.captions[text], None, bool(same[image, text]), float(similarity[image, text]))
            for text in best
        ]
        strips.append(Strip(_name_of(embedded, image), pictures[image], place, found))
    return strips


def grade(caption: Caption) -> Grade:
    """Right: equal to a reference in normal form. Near: shares a content word with one. Wrong: neither."""
    if bool(normalised([caption]).all()):
        return "right"
    shared = _content(caption.said) & {word for reference in caption.references for word in _content(reference)}
    return "near" if shared else "wrong"


def captions_shown(
    captions: Sequence[Caption], pictures: Sequence[str], *, count: int
) -> tuple[dict[Grade, int], dict[Grade, list[Said]]]:
    """How many captions have each grade, and the first few of each in the keyed order."""
    grades = [grade(caption) for caption in captions]
    counts = {name: grades.count(name) for name in GRADES}
    shown: dict[Grade, list[Said]] = {name: [] for name in GRADES}
    for number in keyed_order(len(captions), "captions"):
        chosen, caption = shown[grades[number]], captions[number]
        if len(chosen) < count:
            chosen.append(Said(pictures[number], caption.references[0], caption.said))
    return counts, shown


def _nearest(similarity: Float[Tensor, " C"], same: Bool[Tensor, " C"]) -> tuple[list[int], int]:
    best: list[int] = similarity.topk(min(NEAREST, len(similarity))).indices.tolist()
    return best, int(ranks(similarity[None], same[None]))


def _name_of(embedded: Embedded, image: int) -> str:
    return embedded.captions[int((embedded.owner == image).nonzero()[0, 0])]


def _content(text: str) -> set[str]:
    return set(normal_form(text).split()) - FUNCTION_WORDS

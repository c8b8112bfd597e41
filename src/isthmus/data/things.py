"""Which rows of a source are the same thing, and whether it shows more than one.

Contrastive learning, matching and the shuffled loss compare things with each other.
"""

from collections.abc import Hashable, Iterable, Sequence

from isthmus.errors import DataError
from isthmus.records import Source


def refuse_one_thing(source: Source, *, captions: bool) -> None:
    """Refuse a source in which every row is the same thing, by its `image_id` or, with `captions`, by its caption.

    Nothing would be a negative of anything, and a run would go on to its end without learning. Raises DataError.
    """
    examples = [source[index] for index in range(len(source))]
    if len(examples) < 2:
        return
    first = examples[0]
    if all(example.image_id == first.image_id for example in examples):
        raise DataError(
            f"all {len(examples)} training pictures have the image_id {first.image_id!r}, so that none is a negative "
            "of another; give each thing its own, or leave the ids out."
        )
    if captions and all(set(example.captions) == {first.captions[0]} for example in examples):
        raise DataError(
            f"all {len(examples)} training pictures have the caption {first.captions[0]!r}, so that none is a negative "
            "of another; say of each what it shows."
        )


def joined(names: Sequence[str], marks: Sequence[Iterable[Hashable]]) -> list[str]:
    """For each row, the smallest name among all rows that equal names and shared marks join to it, over any others."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        leader.setdefault(name, name)
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    first: dict[Hashable, str] = {}
    for name, shared in zip(names, marks, strict=True):
        for mark in shared:
            smaller, larger = sorted((find(name), find(first.setdefault(mark, name))))
            leader[larger] = smaller
    return [find(name) for name in names]

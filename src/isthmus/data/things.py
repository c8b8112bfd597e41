"""Whether a source shows more than one thing: contrastive learning and matching compare things with each other."""

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

"""Training and held-out pictures by what they show, never by row."""

from collections.abc import Iterable

import torch

from isthmus.data.hashes import known_hashes
from isthmus.data.mixture import Mixture
from isthmus.errors import DataError
from isthmus.fingerprint import text_identity
from isthmus.randomness import uniform

_HELD_OUT = text_identity("held-out pictures")


def split_by_picture(source: Mixture, share: float) -> tuple[Mixture, Mixture]:
    """Split a source into what is trained on and what is held out, about `share` of the pictures.

    Rows with the same `image_id` or with the same bytes, wherever they stand, fall on one side. Which side is a draw
    keyed by the pictures' bytes alone: it does not change with the run's seed, with names and places of files, or
    when pictures are added. Every picture is read once.

    Raises DataError when one side would be empty.
    """
    hashes = known_hashes(source[index].image for index in range(len(source)))
    ids = [source[index].image_id for index in range(len(source))]
    keys = _same_pictures(list(zip(ids, hashes, strict=True)))
    out = (uniform(_HELD_OUT, torch.tensor([text_identity(key) for key in keys])) < share).tolist()
    if all(out) or not any(out):
        side = "all" if all(out) else "none"
        raise DataError(
            f"data.held_out: {share} holds out {side} of {len(set(keys))} pictures; choose another share, add "
            "pictures, or name held-out pictures in data.evaluation."
        )
    return source.keep([not held for held in out]), source.keep(out)


def _same_pictures(rows: Iterable[tuple[str, str | None]]) -> list[str]:
    """For each row, the smallest hash (an id where there is none) among all rows that ids and hashes join to it."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        leader.setdefault(name, name)
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    names = [f"bytes {image}" if image else f"id {thing}" for thing, image in rows]
    for (thing, _), name in zip(rows, names, strict=True):
        first, second = sorted((find(f"id {thing}"), find(name)))
        leader[second] = first  # "bytes …" comes before "id …", so that hashes lead
    return [find(name) for name in names]

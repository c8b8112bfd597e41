"""Training and held-out pictures by what they show, never by row."""

import hashlib

import torch

from isthmus.data.hashes import known_hashes
from isthmus.data.mixture import Mixture
from isthmus.data.things import joined
from isthmus.errors import DataError
from isthmus.fingerprint import text_identity
from isthmus.randomness import uniform

_HELD_OUT = text_identity("held-out pictures")
_NOTHING = hashlib.sha256(b"").hexdigest()


def split_by_picture(source: Mixture, share: float) -> tuple[Mixture, Mixture]:
    """Split a source into what is trained on and what is held out, about `share` of the pictures.

    Rows with the same `image_id` or with the same bytes, wherever they stand, fall on one side. Which side is a draw
    keyed by the `image_id` alone (the smallest of those that share bytes): neither the run's seed, nor where the files
    lie, nor pictures of other ids change it. Every picture is read once.

    Raises DataError when one side would be empty.
    """
    hashes = known_hashes(source[index].image for index in range(len(source)))
    ids = [part.source[index].image_id for part in source.parts for index in range(len(part.source))]
    keys = joined(ids, [[image] if image not in (None, _NOTHING) else [] for image in hashes])  # no bytes join nothing
    out = (uniform(_HELD_OUT, torch.tensor([text_identity(key) for key in keys])) < share).tolist()
    if all(out) or not any(out):
        side = "all" if all(out) else "none"
        raise DataError(
            f"data.held_out: {share} holds out {side} of {len(set(keys))} pictures; choose another share, add "
            "pictures, or name held-out pictures in data.evaluation."
        )
    return source.keep([not held for held in out]), source.keep(out)

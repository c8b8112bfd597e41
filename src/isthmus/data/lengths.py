"""Which caption a row is trained with, how long it is, and batches of captions of like length."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isthmus.fingerprint import text_identity
from isthmus.randomness import permutation, uniform
from isthmus.records import Example, Source

_CAPTION = text_identity("choice of a caption")
_BATCHES = text_identity("order of batches of like length")
_SHORT = text_identity("length of a short batch")


def caption_draws(seed: int, epoch: int | Int[Tensor, "..."], row: int | Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Draw the number in (0, 1) that chooses a row's caption in an epoch."""
    return uniform(seed, _CAPTION, epoch, row)


def chosen_caption(example: Example, draw: float) -> int:
    """Which of a row's captions a draw means."""
    return int(draw * len(example.captions))


@dataclass(frozen=True)
class CaptionLengths:
    """How long the captions are that rows of a source are trained with, questions included, in characters.

    No picture is read, and no tokenizer is asked: which rows are long is the same to all of them, near enough.
    """

    source: Source
    seed: int

    def __call__(self, epochs: Int[Tensor, " R"], rows: Int[Tensor, " R"]) -> Int[Tensor, " R"]:
        """Measure rows, each as it is drawn in its epoch."""
        draws = caption_draws(self.seed, epochs, rows).tolist()
        examples = (self.source[row] for row in rows.tolist())
        return torch.tensor([_length(example, draw) for example, draw in zip(examples, draws, strict=True)])


def _length(example: Example, draw: float) -> int:
    number = chosen_caption(example, draw)
    return len(example.captions[number]) + (len(example.questions[number]) if example.questions else 0)


def like_lengths(lengths: Int[Tensor, " R"], batch: int, *key: int) -> Int[Tensor, " R"]:
    """Order R rows so that each batch holds like lengths, and the batches by a keyed draw; equals keep their order.

    The rows that do not fill a batch come last and are of like length too: which length, is drawn as well.
    """
    order = lengths.argsort(stable=True)
    batches, short = divmod(len(order), batch)
    cut = batch * int(float(uniform(*key, _SHORT)) * (batches + 1))
    whole = torch.cat([order[:cut], order[cut + short :]]).view(batches, batch)
    return torch.cat([whole[permutation(batches, _BATCHES, *key)].flatten(), order[cut : cut + short]])

import torch

from bridges import tiny_batch
from isthmus.tasks.kept import Kept


class Counted:
    """Two batches, and how often they were made."""

    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        yield tiny_batch(seed=1)
        yield tiny_batch(seed=2)


def test_what_fits_is_made_once_and_what_does_not_in_every_pass():
    size = sum(batch.vision.nbytes for batch in Counted())
    for limit, passes in ((size, 1), (size - 1, 3)):
        made = Counted()
        kept = Kept(made, limit=limit)
        for _ in range(3):
            found = [batch.vision for batch in kept]
            assert len(found) == 2
            assert all(torch.equal(a, tiny_batch(seed=n).vision) for n, a in enumerate(found, start=1))
        assert made.passes == passes


def test_a_pass_that_was_left_early_keeps_nothing():
    made = Counted()
    kept = Kept(made, limit=1 << 20)
    next(iter(kept))
    assert len(list(kept)) == len(list(kept)) == 2
    assert made.passes == 2

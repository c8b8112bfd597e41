import torch

from bridges import rows_of, tiny_batch
from isthmus.tasks.caption import caption_all, exact_match


def test_every_picture_is_captioned_in_order():
    batch = tiny_batch()
    parts = [rows_of(batch, slice(0, 3)), rows_of(batch, slice(3, 4))]
    said = caption_all(lambda patches: [f"{row.sum():.3f}" for row in patches], parts, torch.device("cpu"))
    assert said == [(f"{row.sum():.3f}", caption) for row, caption in zip(batch.vision, batch.captions, strict=True)]


def test_exact_match_leaves_case_and_outer_white_space_aside():
    pairs = [("A red Boat ", "a red boat"), ("red boat", "a red boat"), ("", "x"), ("two  cats", "two cats")]
    assert exact_match(pairs) == 25.0
    assert exact_match([]) == 0.0

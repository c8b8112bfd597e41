import torch

from isthmus.qformer.masks import additive, bidirectional, multimodal_causal, unimodal

TEXT = torch.tensor([[True, True, True], [True, True, False]])


def grid(*rows: str) -> torch.Tensor:
    return torch.tensor([[cell == "1" for cell in row.split()] for row in rows])


def test_unimodal():
    mask = unimodal(2, TEXT)
    assert torch.equal(mask[0], grid("1 1 . . .", "1 1 . . .", ". . 1 1 1", ". . 1 1 1", ". . 1 1 1"))
    assert torch.equal(mask[1], grid("1 1 . . .", "1 1 . . .", ". . 1 1 .", ". . 1 1 .", ". . 1 1 ."))


def test_bidirectional():
    mask = bidirectional(2, TEXT)
    assert torch.equal(mask[0], grid(*["1 1 1 1 1"] * 5))
    assert torch.equal(mask[1], grid(*["1 1 1 1 ."] * 5))


def test_multimodal_causal():
    mask = multimodal_causal(2, TEXT)
    assert torch.equal(mask[0], grid("1 1 . . .", "1 1 . . .", "1 1 1 . .", "1 1 1 1 .", "1 1 1 1 1"))
    assert torch.equal(mask[1], grid("1 1 . . .", "1 1 . . .", "1 1 1 . .", "1 1 1 1 .", "1 1 1 1 ."))


def test_every_row_may_look_somewhere_even_when_its_text_is_empty_of_tokens():
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    assert bidirectional(1, nothing).any(-1).all()
    assert multimodal_causal(1, nothing).any(-1).all()


def test_additive_is_zero_or_the_lowest_finite_number():
    bias = additive(grid("1 ."), torch.float32)
    assert bias.tolist() == [[0.0, torch.finfo(torch.float32).min]]

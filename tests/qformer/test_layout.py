"""Packed and padded tokens carry the same numbers and gradients; the oracle is a loop over rows."""

import torch

from isthmus.qformer.layout import Layout, _Packed, _Padded

MASK = torch.tensor([[True, True, True, False], [True, False, False, False], [True, True, False, False]])
QUERIES = 2


def tokens_of(padded, mask):
    """Every token that stands, row after row."""
    return torch.stack([padded[row, place] for row in range(len(mask)) for place in range(4) if mask[row, place]])


def test_ragged_rows_are_packed_and_even_ones_padded():
    assert isinstance(Layout.of(MASK), _Packed)
    assert isinstance(Layout.of(torch.ones(3, 4, dtype=torch.bool)), _Padded)


def test_words_and_their_firsts():
    padded = torch.arange(12.0).view(3, 4, 1)
    layout = Layout.of(MASK)
    words = layout.words(padded)
    assert torch.equal(words, tokens_of(padded, MASK))
    assert torch.equal(layout.first(words), padded[:, :1])


def test_join_and_split_are_inverse_and_pad_puts_each_token_in_its_row():
    generator = torch.Generator().manual_seed(0)
    queries, texts = torch.randn(3, QUERIES, 5, generator=generator), torch.randn(3, 4, 5, generator=generator)
    layout = Layout.of(MASK, queries=QUERIES)
    tokens = layout.join(queries, layout.words(texts))
    assert tokens.shape == (3 * QUERIES + 6, 5)
    again, words = layout.split(tokens)
    assert torch.equal(again, queries)
    assert torch.equal(words, tokens_of(texts, MASK))
    padded = layout.pad(tokens)
    assert torch.equal(padded[:, :QUERIES], queries)
    assert torch.equal(padded[:, QUERIES:][MASK], texts[MASK])
    assert torch.isfinite(padded).all()
    assert torch.equal(layout.unpad(padded), tokens)


def test_gradients_pass_tokens_and_are_zero_in_padding():
    layout = Layout.of(MASK, queries=QUERIES)
    tokens = torch.randn(12, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, QUERIES + 4, 5, dtype=torch.float64)
    present = torch.cat([MASK.new_ones(3, QUERIES), MASK], 1)
    (layout.pad(tokens) * (weight * present[..., None])).sum().backward()
    assert torch.equal(tokens.grad, layout.unpad(weight))

    padded = torch.randn(3, QUERIES + 4, 5, dtype=torch.float64, requires_grad=True)
    of_tokens = torch.randn(12, 5, dtype=torch.float64)
    (layout.unpad(padded) * of_tokens).sum().backward()
    assert torch.equal(padded.grad, layout.pad(of_tokens) * present[..., None])

"""Losses a chunk at a time are the plain ones, and nothing as wide as the vocabulary outlives its chunk."""

from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from isthmus.language import token_losses as room
from isthmus.language.heads import HEADS
from isthmus.language.token_losses import losses_of_states, token_losses

K, L, WIDTH = 23, 8, 260


def model(dtype=torch.float64):
    """All that any listed head reads: a projection that logits saturate behind, scales of its type, a bias."""
    torch.manual_seed(0)
    config = SimpleNamespace(final_logit_softcapping=0.7, logits_scaling=0.3, scale_decoder_outputs=True)
    head = nn.Linear(L, WIDTH, bias=False, dtype=dtype).requires_grad_(False)
    return SimpleNamespace(
        lm_head=head,
        config=config,
        logit_scale=3.0,
        model_dim=L,
        final_logits_bias=torch.randn(1, WIDTH, dtype=dtype),
    )


def given(dtype=torch.float64, rows=K):
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(rows, L, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
    weights = torch.rand(rows, dtype=torch.float64, generator=generator)
    return states, torch.randint(WIDTH, (rows,), generator=generator), weights


@contextmanager
def chunks_of(rows, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(room, "CHUNK_BYTES", rows * WIDTH * 8)
        yield


@pytest.mark.parametrize("rows", [1, 5, 22, 23, 1000])
@pytest.mark.parametrize("kind", sorted(HEADS))
def test_losses_and_gradients_are_the_plain_ones(kind, rows, monkeypatch):
    head, (states, ids, weights) = partial(HEADS[kind].logits, model()), given()
    plain = F.cross_entropy(head(states), ids, reduction="none")
    (wanted,) = torch.autograd.grad((plain * weights).sum(), states)
    with chunks_of(rows, monkeypatch):
        losses = losses_of_states(head, states, ids, vocabulary=WIDTH)
    (found,) = torch.autograd.grad((losses * weights).sum(), states)
    assert torch.allclose(losses, plain, rtol=1e-12)
    assert (found - wanted).abs().max() <= 1e-12 * wanted.abs().max()


def test_chunks_are_even_and_no_larger_than_asked(monkeypatch):
    sizes, (states, ids, _) = [], given()
    plain = model().lm_head
    with chunks_of(10, monkeypatch):
        losses_of_states(lambda some: sizes.append(len(some)) or plain(some), states, ids, vocabulary=WIDTH)
    assert sizes == [8, 8, 7]


@pytest.mark.parametrize("graph", [True, False])
def test_no_label_is_no_loss(graph):
    states, ids, _ = given(rows=0)
    with torch.set_grad_enabled(graph):
        assert losses_of_states(model().lm_head, states, ids, vocabulary=WIDTH).shape == (0,)


def test_what_stays_for_the_backward_is_one_gradient_of_the_states():
    states, ids, _ = given()
    losses = losses_of_states(model().lm_head, states, ids, vocabulary=WIDTH)
    assert [tensor.shape for tensor in losses.grad_fn.saved_tensors] == [(K, L)]
    assert not losses.grad_fn.next_functions[0][0].next_functions, "and behind it stand the states alone"


@pytest.mark.parametrize("how", [torch.no_grad, torch.inference_mode])
def test_where_no_gradient_is_asked_for_none_is_computed(how, monkeypatch):
    states, ids, _ = given()
    expected = losses_of_states(model().lm_head, states, ids, vocabulary=WIDTH)
    monkeypatch.setattr(torch.autograd, "grad", None)
    with how(), chunks_of(5, monkeypatch):
        found = losses_of_states(model().lm_head, states, ids, vocabulary=WIDTH)
    assert not found.requires_grad and torch.allclose(found, expected, rtol=1e-12)
    assert torch.allclose(losses_of_states(model().lm_head, states.detach(), ids, vocabulary=WIDTH), expected)


def test_losses_are_in_fp32_at_least_and_gradients_in_the_states_own():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([1, 2, 0])
    expected = -logits.log_softmax(1)[torch.arange(3), ids]
    assert torch.allclose(token_losses(logits, ids), expected)
    assert token_losses(logits.bfloat16(), ids).dtype == torch.float32
    assert token_losses(logits.double(), ids).dtype == torch.float64
    states, ids, _ = given(torch.bfloat16)
    losses = losses_of_states(model(torch.bfloat16).lm_head, states, ids, vocabulary=WIDTH)
    losses.sum().backward()
    assert losses.dtype == torch.float32 and states.grad.dtype == torch.bfloat16


def test_in_bf16_the_gradient_is_the_plain_one_to_its_rounding():
    head, (states, ids, weights) = model(torch.bfloat16).lm_head, given(torch.bfloat16)
    plain = F.cross_entropy(head(states).float(), ids, reduction="none")
    (wanted,) = torch.autograd.grad((plain * weights).sum(), states)
    losses = losses_of_states(head, states, ids, vocabulary=WIDTH)
    (found,) = torch.autograd.grad((losses * weights).sum(), states)
    assert torch.equal(losses, plain)
    assert (found - wanted).abs().max() <= 2**-7 * wanted.abs().max()

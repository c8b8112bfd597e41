"""Each verb equals the definition under its mask: values and gradients of every parameter, fp64, 1e-12."""

import math

import pytest
import torch

from isthmus.errors import AbsentPartError, ConfigError
from isthmus.qformer import memory
from isthmus.qformer.initialize import from_scratch
from isthmus.qformer.layer import Dropouts
from isthmus.qformer.masks import bidirectional, multimodal_causal, unimodal
from isthmus.qformer.qformer import QFormer
from isthmus.records import BridgeSizes, Text

TINY = {"vision_width": 6, "width": 8, "layers": 3, "heads": 2, "feed_forward_width": 12, "vocabulary": 19}
CASES = [(queries, frequency) for queries in (1, 32) for frequency in (1, 2)]


def redraw(module: torch.nn.Module, seed: int = 0) -> None:
    """Draw every parameter anew, LayerNorms and biases included: zeros and ones hide errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)


def build(queries: int = 2, frequency: int = 2, **sizes) -> QFormer:
    qformer = QFormer(
        BridgeSizes(**{**TINY, "queries": queries, "cross_frequency": frequency, "positions": 16, **sizes}),
        Dropouts(0.0, 0.0, 0.0),
    ).double()
    redraw(qformer)
    return qformer


def ragged() -> tuple[Text, torch.Tensor]:
    lengths = torch.tensor([5, 2, 4])
    mask = torch.arange(5) < lengths[:, None]
    ids = torch.randint(1, 19, (3, 5), generator=torch.Generator().manual_seed(1)) * mask
    return Text(ids, mask), torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def assert_equal_values_and_gradients(qformer, fast, slow):
    weight = torch.randn(slow().shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    results = []
    for compute in (fast, slow):
        qformer.zero_grad()
        value = compute()
        (value * weight).sum().backward()
        gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in qformer.named_parameters()}
        results.append((value.detach(), gradients))
    (value, gradients), (expected, expected_gradients) = results
    assert torch.allclose(value, expected, atol=1e-12, rtol=0)
    for name, gradient in expected_gradients.items():
        scale = max(1.0, gradient.abs().max().item())
        assert torch.allclose(gradients[name], gradient, atol=1e-12 * scale, rtol=0), name
    assert sum(gradient.abs().sum() for gradient in gradients.values()) > 0


@pytest.mark.parametrize(("queries", "frequency"), CASES)
def test_encode_image_is_forward_under_the_unimodal_mask(queries, frequency):
    qformer, (text, patches) = build(queries, frequency), ragged()
    mask = unimodal(queries, text.mask)
    assert_equal_values_and_gradients(
        qformer, lambda: qformer.encode_image(patches).states, lambda: qformer(text, mask, patches).queries
    )


@pytest.mark.parametrize(("queries", "frequency"), CASES)
def test_encode_text_is_forward_under_the_unimodal_mask(queries, frequency):
    qformer, (text, patches) = build(queries, frequency), ragged()
    mask = unimodal(queries, text.mask)
    assert_equal_values_and_gradients(
        qformer, lambda: qformer.encode_text(text), lambda: qformer(text, mask, patches).text[:, 0]
    )


@pytest.mark.parametrize(("queries", "frequency"), CASES)
def test_fuse_is_forward_under_the_bidirectional_mask(queries, frequency):
    qformer, (text, patches) = build(queries, frequency), ragged()
    mask = bidirectional(queries, text.mask)
    assert_equal_values_and_gradients(
        qformer,
        lambda: qformer.fuse(text, qformer.memory.project(patches)),
        lambda: qformer(text, mask, patches).queries,
    )


@pytest.mark.parametrize(("queries", "frequency"), CASES)
def test_decode_is_forward_under_the_multimodal_causal_mask(queries, frequency):
    qformer, (text, patches) = build(queries, frequency), ragged()
    mask, keep = multimodal_causal(queries, text.mask), text.mask[..., None]
    assert_equal_values_and_gradients(
        qformer,
        lambda: qformer.decode(text, qformer.encode_image(patches).prefix) * keep,
        lambda: qformer(text, mask, patches).text * keep,
    )


def test_queries_under_the_causal_mask_are_those_of_the_image_pass():
    qformer, (text, patches) = build(), ragged()
    causal = qformer(text, multimodal_causal(2, text.mask), patches).queries
    assert torch.allclose(causal, qformer.encode_image(patches).states, atol=1e-12, rtol=0)


@pytest.fixture(params=["shared", "copied"])
def selection(request, monkeypatch):
    """Both ways in which rows get at the image they look at."""
    monkeypatch.setattr(memory, "WORTH_SHARING", 0 if request.param == "shared" else math.inf)
    return request.param


@pytest.mark.usefixtures("selection")
def test_a_selected_memory_is_the_memory_of_the_selected_images():
    qformer, (_, patches) = build(), ragged()
    index = torch.tensor([2, 0, 2])
    query = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64, requires_grad=True)
    results = []
    for looked_at in (qformer.memory.project(patches).select(index), qformer.memory.project(patches[index])):
        seen = looked_at.attended(query, 0, heads=2)
        parameters = (query, qformer.memory.keys[0].weight, qformer.memory.values[0].weight, qformer.memory.norm.weight)
        results.append((seen, *torch.autograd.grad(seen.square().sum(), parameters)))
    for got, expected in zip(*results, strict=True):
        assert torch.allclose(got, expected, atol=1e-12, rtol=0)


@pytest.mark.usefixtures("selection")
def test_a_memory_is_selected_from_a_selected_one():
    qformer, (_, patches) = build(), ragged()
    query = torch.randn(2, 2, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    whole = qformer.memory.project(patches)
    twice = whole.select(torch.tensor([2, 0, 2, 1])).select(torch.tensor([2, 3]))
    once = whole.select(torch.tensor([2, 1]))
    assert torch.allclose(twice.attended(query, 0, heads=2), once.attended(query, 0, heads=2), atol=1e-12, rtol=0)


def test_a_large_selection_copies_no_keys_and_values(selection):
    whole = build().memory.project(ragged()[1])
    chosen = whole.select(torch.tensor([2, 0, 2]))
    both = zip((*chosen.keys, *chosen.values), (*whole.keys, *whole.values), strict=True)
    assert all((a is b) == (selection == "shared") for a, b in both)


def test_memories_of_the_paper_s_size_are_shared_and_those_of_the_quickstart_are_not():
    def whole(patches, width):
        layer = torch.zeros(2, 12, patches, width // 12, dtype=torch.bfloat16)
        return memory.Memory((layer,), (layer,))

    index = torch.tensor([1, 1, 0])
    assert whole(257, 768).select(index).sharing is not None
    assert whole(49, 384).select(index).sharing is None


def test_padding_changes_nothing():
    qformer, (text, patches) = build(), ragged()
    short = Text(text.ids[1:2, :2], text.mask[1:2, :2])
    memory = qformer.memory.project(patches)
    row = torch.tensor([1])
    assert torch.allclose(qformer.encode_text(text)[1:2], qformer.encode_text(short), atol=1e-12, rtol=0)
    fused = qformer.fuse(text, memory)[1:2]
    assert torch.allclose(fused, qformer.fuse(short, memory.select(row)), atol=1e-12, rtol=0)


def test_forward_hands_out_where_the_queries_look():
    qformer, (text, patches) = build(), ragged()
    assert qformer(text, unimodal(2, text.mask), patches).looks == ()
    looks = qformer(text, unimodal(2, text.mask), patches, look=True).looks
    assert [look.shape for look in looks] == [(3, 2, 2, 4)] * 2
    assert torch.allclose(looks[0].sum(-1), torch.ones(3, 2, 2, dtype=torch.float64))


def test_without_a_text_half_text_is_refused_by_name():
    qformer, (text, patches) = build(text=False), ragged()
    assert qformer.encode_image(patches).states.shape == (3, 2, 8)
    assert qformer(None, None, patches).text is None
    for call in (lambda: qformer.encode_text(text), lambda: qformer.fuse(text, qformer.memory.project(patches))):
        with pytest.raises(AbsentPartError, match="no text half"):
            call()


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match="no multiple of its 3 heads"):
        build(heads=3)


def test_dropout_acts_per_part_and_only_in_training():
    text, _ = ragged()
    for dropouts in (Dropouts(0.5, 0.0, 0.0), Dropouts(0.0, 0.5, 0.0), Dropouts(0.0, 0.0, 0.5)):
        qformer = QFormer(BridgeSizes(**TINY, queries=2, positions=16), dropouts).double()
        from_scratch(qformer, seed=0)
        torch.manual_seed(0)
        qformer.train()
        assert not torch.equal(qformer.encode_text(text), qformer.encode_text(text))
        qformer.eval()
        assert torch.equal(qformer.encode_text(text), qformer.encode_text(text))

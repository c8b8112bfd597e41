import pytest
import torch

from isthmus.qformer import attention as module
from isthmus.qformer.attention import LARGE, LONG, SHORT, attention, attention_weights, choose, shape_class
from isthmus.qformer.masks import additive


def slow_attention(query, key, value, allowed):
    """One row, one head, one position at a time."""
    out = torch.zeros(*query.shape[:-1], value.shape[-1], dtype=query.dtype)
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            for s in range(query.shape[2]):
                score = (key[b, h] @ query[b, h, s]) / query.shape[-1] ** 0.5
                score[~allowed[b, s]] = -torch.inf
                out[b, h, s] = score.softmax(0) @ value[b, h]
    return out


@pytest.mark.parametrize("trains", [True, False])
def test_both_kernels_equal_the_definition(trains):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, 3, size, 4, generator=generator, dtype=torch.float64).requires_grad_(trains)
        for size in (5, 6, 6)
    )
    allowed = torch.rand(2, 5, 6, generator=generator) > 0.3
    allowed[:, :, 0] = True
    got = attention(query, key, value, bias=additive(allowed[:, None], torch.float64))
    assert torch.allclose(got, slow_attention(query, key, value, allowed), atol=1e-12, rtol=0)


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [SHORT, LONG, LARGE])
def test_the_table_trains_with_plain_products_on_the_cpu_only(dtype, shape):
    assert choose(CPU, dtype, shape, trains=True) == "plain"
    assert choose(CUDA, dtype, shape, trains=True) == "fused"
    assert choose(CUDA, dtype, shape, trains=False) == "fused"


def test_the_table_predicts_on_the_cpu_by_precision_and_shape():
    plain = {
        (dtype, shape)
        for dtype in (torch.float32, torch.bfloat16, torch.float64)
        for shape in (SHORT, LONG, LARGE)
        if choose(CPU, dtype, shape, trains=False) == "plain"
    }
    assert plain == {(torch.bfloat16, SHORT), (torch.bfloat16, LONG), (torch.float32, SHORT)}


def test_shapes_are_classed_by_their_keys_and_their_scores():
    assert shape_class(24 * 12, 43, 43) == SHORT
    assert shape_class(8 * 12, 32, 257) == LONG
    assert shape_class(12, 4096, 257) == LARGE
    assert shape_class(1, 2**16, 48) == SHORT
    assert shape_class(1, 2**22, 2) == LARGE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keys", [5, 60])
def test_every_choice_gives_the_same_numbers_within_its_rounding(dtype, keys, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, size, 8, generator=generator).to(dtype) for size in (4, keys, keys))
    results = []
    for kernel in ("plain", "fused"):
        monkeypatch.setattr(module, "choose", lambda *_, kernel=kernel, **__: kernel)
        results.append(attention(query, key, value).float())
        learned = query.clone().requires_grad_()
        results.append(attention(learned, key, value).detach().float())
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    assert all(torch.allclose(result, results[0], atol=tolerance, rtol=tolerance) for result in results)


def test_weights_are_probabilities():
    query = torch.randn(1, 2, 3, 4)
    assert torch.allclose(attention_weights(query, query).sum(-1), torch.ones(1, 2, 3))


def test_dropout_acts_in_training_only_when_asked():
    query = torch.randn(1, 1, 4, 8, requires_grad=True)
    torch.manual_seed(0)
    assert not torch.equal(attention(query, query, query, dropout=0.5), attention(query, query, query, dropout=0.5))
    assert torch.equal(attention(query, query, query), attention(query, query, query))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_plain_kernel_has_the_gradient_of_what_it_computes(dropout):
    generator = torch.Generator().manual_seed(1)
    tensors = [
        torch.randn(2, 2, size, 3, generator=generator, dtype=torch.float64, requires_grad=True) for size in (3, 4, 4)
    ]
    allowed = torch.rand(2, 3, 4, generator=generator) > 0.3
    allowed[:, :, 0] = True
    bias = additive(allowed[:, None], torch.float64)

    def attended(query, key, value):
        torch.manual_seed(0)
        return attention(query, key, value, bias=bias, dropout=dropout)

    assert torch.autograd.gradcheck(attended, tensors)


def test_the_plain_kernel_keeps_one_tensor_of_weights_and_a_byte_for_each():
    query, key = torch.randn(2, 3, 5, 4, requires_grad=True), torch.randn(2, 3, 7, 4)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        attention(query, key, key, dropout=0.1)
    weights = [tensor for tensor in kept if tensor.shape == (2, 3, 5, 7)]
    assert sorted(str(tensor.dtype) for tensor in weights) == ["torch.bool", "torch.float32"]

import math

import pytest
import torch

from isthmus.objectives.itc import image_to_text, itc, text_to_image

ONE = torch.tensor(1.0, dtype=torch.float64)


def double(rows):
    return torch.tensor(rows, dtype=torch.float64)


def slow_itc(image, text, all_image, all_text, same, temperature, smoothing):
    """Row by row, candidate by candidate, with LAVIS's soft targets."""
    total = 0.0
    for b in range(len(image)):
        i2t = [max(float(q @ t) for q in image[b]) / temperature for t in all_text]
        t2i = [max(float(text[b] @ q) for q in other) / temperature for other in all_image]
        mass = sum(bool(s) for s in same[b])
        for scores in (i2t, t2i):
            normaliser = math.log(sum(math.exp(s) for s in scores))
            for n, score in enumerate(scores):
                target = (1 - smoothing) * bool(same[b][n]) / mass + smoothing / len(scores)
                total -= target * (score - normaliser) / 2
    return float(total)


def random_features(generator, count):
    image = torch.nn.functional.normalize(torch.randn(count, 3, 5, generator=generator, dtype=torch.float64), dim=-1)
    text = torch.nn.functional.normalize(torch.randn(count, 5, generator=generator, dtype=torch.float64), dim=-1)
    return image, text


def test_similarity_is_the_best_query():
    image = double([[[1, 0], [0, 1]], [[-1, 0], [0.6, 0.8]]])
    text = double([[1, 0], [0, 1]])
    assert image_to_text(image, text).tolist() == [[1, 1], [0.6, 0.8]]
    assert text_to_image(text, image).tolist() == [[1, 0.6], [1, 0.8]]


def test_two_rows_by_hand():
    similarity = double([[1, 0], [0, 1]])
    term = itc(similarity, similarity, same=torch.eye(2) > 0, temperature=ONE, smoothing=0.0)
    assert term.weight == 2
    assert term.sum.item() == pytest.approx(2 * math.log(1 + math.exp(-1)))


def test_smoothing_by_hand():
    similarity = double([[1, 0], [0, 1]])
    term = itc(similarity, similarity, same=torch.eye(2) > 0, temperature=ONE, smoothing=0.2)
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    assert term.sum.item() == pytest.approx(2 * (0.9 * right + 0.1 * wrong))


def test_same_thing_rows_share_the_target_mass():
    similarity, same = double([[2, 2, 0]]), torch.tensor([[True, True, False]])
    term = itc(similarity, similarity, same=same, temperature=ONE, smoothing=0.0)
    assert term.sum.item() == pytest.approx(math.log(2 * math.exp(2) + 1) - 2)


def test_all_same_thing_is_the_uniform_target():
    similarity, same = double([[0, 0], [0, 0]]), torch.ones(2, 2) > 0
    term = itc(similarity, similarity, same=same, temperature=ONE, smoothing=0.0)
    assert term.sum.item() == pytest.approx(2 * math.log(2))


def test_a_batch_of_one_has_nothing_to_learn():
    term = itc(double([[0.3]]), double([[0.3]]), same=torch.ones(1, 1) > 0, temperature=ONE, smoothing=0.1)
    assert (term.sum, term.weight) == (0, 1)


def test_it_is_torchs_label_smoothed_cross_entropy_where_rows_are_distinct():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    term = itc(a, b, same=torch.eye(4) > 0, temperature=ONE * 0.5, smoothing=0.1)
    losses = [
        torch.nn.functional.cross_entropy(s / 0.5, torch.arange(4), label_smoothing=0.1, reduction="sum")
        for s in (a, b)
    ]
    assert torch.allclose(term.sum, sum(losses) / 2)


@pytest.mark.parametrize("rows", [slice(0, 6), slice(0, 2), slice(2, 6)])
def test_the_slow_oracle_on_a_whole_batch_and_on_unequal_ranks(rows):
    image, text = random_features(torch.Generator().manual_seed(1), 6)
    same = (torch.tensor([0, 1, 0, 2, 3, 2])[:, None] == torch.tensor([0, 1, 0, 2, 3, 2]))[rows]
    term = itc(
        image_to_text(image[rows], text),
        text_to_image(text[rows], image),
        same=same,
        temperature=ONE * 0.07,
        smoothing=0.1,
    )
    assert term.weight == len(same)
    expected = slow_itc(image[rows], text[rows], image, text, same, 0.07, 0.1)
    assert term.sum.item() == pytest.approx(expected, abs=1e-12 * abs(expected))


def test_unequal_ranks_sum_to_the_whole_batch():
    image, text = random_features(torch.Generator().manual_seed(2), 5)

    def part(rows):
        pair = image_to_text(image[rows], text), text_to_image(text[rows], image)
        return itc(*pair, same=(torch.eye(5) > 0)[rows], temperature=ONE, smoothing=0.1)

    whole, parts = part(slice(0, 5)), [part(slice(0, 1)), part(slice(1, 5))]
    assert sum(p.sum for p in parts).item() == pytest.approx(whole.sum.item())
    assert sum(p.weight for p in parts) == whole.weight


def test_rows_that_do_not_count_are_no_candidates_and_weigh_nothing():
    image, text = random_features(torch.Generator().manual_seed(3), 6)
    thing, counts = torch.tensor([0, 1, 0, 2, 0, 1]), torch.tensor([True, True, True, False, True, False])
    similarity = image_to_text(image, text), text_to_image(text, image)
    same, counted = thing[:, None] == thing, counts[:, None] & counts
    term = itc(*similarity, same=same, temperature=ONE * 0.07, smoothing=0.1, counted=counted)
    assert term.weight == 4
    few = image[counts], text[counts]
    expected = slow_itc(*few, *few, same[counts][:, counts], 0.07, 0.1)
    assert term.sum.item() == pytest.approx(expected, abs=1e-12 * abs(expected))


def test_only_the_candidates_that_count_get_a_gradient():
    similarity = torch.randn(3, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64).requires_grad_()
    counted = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 1]]) > 0
    term = itc(similarity, similarity, same=torch.eye(4)[:3] > 0, temperature=ONE, smoothing=0.1, counted=counted)
    assert term.weight == 2
    term.sum.backward()
    assert torch.equal(similarity.grad != 0, counted)


def test_where_no_row_counts_the_loss_is_nothing_over_nothing():
    similarity = torch.randn(2, 3, dtype=torch.float64).requires_grad_()
    none = torch.zeros(2, 3) > 0
    term = itc(similarity, similarity, same=torch.eye(3)[:2] > 0, temperature=ONE, smoothing=0.1, counted=none)
    assert (term.sum.item(), term.weight.item(), term.mean().item()) == (0, 0, 0)
    term.sum.backward()
    assert not similarity.grad.any()

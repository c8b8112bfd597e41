"""Stage 1 against the paper computed row by row: `QFormer.forward` under each mask, loops, and nothing shared."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

from bridges import DEC, filled, rows_of, tiny_batch, tiny_bridge
from isthmus.models import stage1
from isthmus.models.stage1 import Stage1, Stage1Options
from isthmus.qformer.masks import bidirectional, multimodal_causal, unimodal
from isthmus.qformer.text import TextHalf
from isthmus.records import Step, Text

EARLY, LATE = Step(seed=0, epoch=0, progress=0.1), Step(seed=0, epoch=0, progress=0.9)
BATCHES = {
    "all different": lambda: tiny_batch(),
    "same-thing rows": lambda: tiny_batch(images=[0, 0, 2, 3], captions=[0, 1, 1, 3]),
    "one thing": lambda: tiny_batch(images=[7, 7, 7, 7]),
}


def build(**options):
    return Stage1(tiny_bridge(), dec=DEC, options=Stage1Options(**options))


@pytest.fixture
def drawn(monkeypatch):
    """Every draw of negatives with its arguments, as it happens."""
    kept = []

    def keep(log_weight, **arguments):
        negatives = draw(log_weight, **arguments)
        kept.append((log_weight, arguments, negatives))
        return negatives

    draw = stage1.draw_negatives
    monkeypatch.setattr(stage1, "draw_negatives", keep)
    return kept


def one_text(batch, row):
    length = int(batch.text.mask[row].sum())
    return Text(batch.text.ids[row : row + 1, :length], batch.text.mask[row : row + 1, :length])


def same(batch, a, b, policy):
    equal_image = bool(batch.identity.image[a] == batch.identity.image[b])
    equal_caption = bool(batch.identity.caption[a] == batch.identity.caption[b])
    return a == b or (policy != "off" and equal_image) or (policy == "image_or_caption" and equal_caption)


def slow_itc(stage, batch):
    bridge, rows = stage.bridge, range(len(batch))
    images, texts = [], []
    for row in rows:
        text = one_text(batch, row)
        states = bridge.qformer(text, unimodal(2, text.mask), batch.vision[row : row + 1])
        images.append([F.normalize(bridge.heads.image(query), dim=0) for query in states.queries[0]])
        texts.append(F.normalize(bridge.heads.text(states.text[0, 0]), dim=0))
    cosine = torch.stack([torch.stack([max(q @ texts[t] for q in images[i]) for t in rows]) for i in rows])
    total = 0
    for anchor in rows:
        things = [same(batch, anchor, other, stage.options.identity) for other in rows]
        for logits in (cosine[anchor], cosine[:, anchor]):
            log_probability = (logits / bridge.heads.temperature).log_softmax(0)
            for other in rows:
                target = 0.9 * things[other] / sum(things) + 0.1 / len(batch)
                total = total - target * log_probability[other] / 2
    return total


def slow_itg(stage, batch):
    total = 0
    for row in range(len(batch)):
        text = one_text(batch, row)
        ids = text.ids[:, :-1].clone()
        ids[0, 0] = DEC
        mask = text.mask[:, :-1]
        states = stage.bridge.qformer(Text(ids, mask), multimodal_causal(2, mask), batch.vision[row : row + 1]).text[0]
        for position, token in enumerate(text.ids[0, 1:]):
            log_probability = stage.bridge.qformer.predict(states[position]).log_softmax(0)
            total = total - 0.9 * log_probability[token] - 0.1 * log_probability.mean()
    return total


def slow_itm(stage, batch, images, texts):
    rows = range(0, len(batch), stage.options.itm_every)
    pairs = [(row, row, 1, 1.0) for row in rows]
    pairs += [(int(images.index[row]), row, 0, float(images.weight[row])) for row in rows]
    pairs += [(row, int(texts.index[row]), 0, float(texts.weight[row])) for row in rows]
    total = 0
    for image, words, match, weight in pairs:
        text = one_text(batch, words)
        states = stage.bridge.qformer(text, bidirectional(2, text.mask), batch.vision[image : image + 1]).queries[0]
        logits = sum(stage.bridge.heads.match(query) for query in states) / len(states)
        total = total - weight * logits.log_softmax(0)[match]
    return total


def gradients(stage, total):
    stage.zero_grad()
    total.backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in stage.named_parameters()}


@pytest.mark.parametrize("progress", [EARLY, LATE], ids=["uniform", "hard"])
@pytest.mark.parametrize("batch", BATCHES)
def test_the_losses_and_their_gradients_are_the_papers_computed_slowly(drawn, batch, progress):
    stage, batch = build(), BATCHES[batch]()
    losses = stage(batch, progress)
    (_, _, images), (_, _, texts) = drawn
    slow = {"itc": slow_itc(stage, batch), "itg": slow_itg(stage, batch), "itm": slow_itm(stage, batch, images, texts)}
    assert {name for name, _ in losses} == set(slow)
    for name, term in losses:
        assert term.sum.item() == pytest.approx(slow[name].item(), abs=1e-10), name
    fast = gradients(stage, sum(term.sum for _, term in losses))
    for name, expected in gradients(stage, sum(slow.values())).items():
        assert torch.allclose(fast[name], expected, atol=1e-10 * max(1.0, expected.abs().max().item()), rtol=0), name


@pytest.mark.parametrize("nth", [2, 3, 9])
@pytest.mark.parametrize("batch", BATCHES)
def test_itm_on_every_nth_row_is_that_of_these_rows(drawn, batch, nth):
    stage, batch = build(itm_every=nth), BATCHES[batch]()
    losses, counted = stage(batch, LATE), stage.count(batch, LATE)
    (_, _, images), (_, _, texts) = drawn
    assert losses["itm"].sum.item() == pytest.approx(slow_itm(stage, batch, images, texts).item(), abs=1e-10)
    rows = range(0, len(batch), nth)
    weight = sum(1 + images.weight[row].item() + texts.weight[row].item() for row in rows)
    assert losses["itm"].weight.item() == counted["itm"].item() == weight
    whole = build()(batch, LATE)
    for name in ("itc", "itg"):
        assert losses[name].sum.item() == whole[name].sum.item(), name


@pytest.mark.parametrize("policy", ["image", "off"])
def test_other_identities_share_the_targets_of_itc_differently(policy):
    stage, batch = build(identity=policy), BATCHES["same-thing rows"]()
    assert stage(batch, LATE)["itc"].sum.item() == pytest.approx(slow_itc(stage, batch).item(), abs=1e-10)


def test_negatives_are_never_the_same_thing(drawn):
    stage, batch = build(), BATCHES["same-thing rows"]()
    for epoch in range(6):
        stage(batch, Step(0, epoch, 0.9))
    for _, _, negatives in drawn:
        assert negatives.index[1] == 3  # row 1 shares its image with row 0 and its caption with row 2
        assert negatives.weight.tolist() == [1, 1, 1, 1]


def test_where_everything_is_one_thing_no_negative_counts(drawn):
    stage, batch = build(), BATCHES["one thing"]()
    losses = stage(batch, EARLY)
    assert [negatives.weight.tolist() for _, _, negatives in drawn] == [[0, 0, 0, 0]] * 2
    assert losses["itm"].weight == len(batch)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("policy", ["image_or_caption", "image", "off"])
def test_the_counted_weights_are_the_weights_of_the_losses(batch, policy):
    stage, batch = build(identity=policy), BATCHES[batch]()
    losses, counted = stage(batch, EARLY), stage.count(batch, EARLY)
    assert {name: term.weight.item() for name, term in losses} == {n: w.item() for n, w in counted.items()}
    assert counted["itc"] == 4 and counted["itg"] == 4 + 2 + 3 + 5


@pytest.mark.parametrize("progress", [EARLY, LATE], ids=["uniform", "hard"])
@pytest.mark.parametrize("batch", BATCHES)
def test_rows_that_do_not_count_change_no_loss_no_gradient_and_no_weight(batch, progress):
    stage, batch = build(), BATCHES[batch]()
    few, more = rows_of(batch, slice(0, 3)), filled(batch, range(3), 5)
    expected = stage(few, progress)
    wanted = gradients(stage, sum(term.sum for _, term in expected))
    found = stage(more, progress)
    for name, gradient in gradients(stage, sum(term.sum for _, term in found)).items():
        scale = max(1.0, wanted[name].abs().max().item())
        assert torch.allclose(gradient, wanted[name], atol=1e-11 * scale, rtol=0), name
    for name, term in expected:
        assert found[name].sum.item() == pytest.approx(term.sum.item(), abs=1e-12), name
        weights = {stage.count(rows, progress)[name].item() for rows in (few, more)}
        assert {found[name].weight.item(), term.weight.item()} == weights, name


def test_where_no_row_counts_losses_weights_and_gradients_are_nothing(drawn):
    stage, batch = build(), filled(tiny_batch(), range(0), 3)
    losses, counted = stage(batch, LATE), stage.count(batch, LATE)
    assert {name: (term.sum.item(), term.weight.item()) for name, term in losses} == dict.fromkeys(counted, (0, 0))
    assert {weight.item() for weight in counted.values()} == {0}
    assert [negatives.index.tolist() for _, _, negatives in drawn] == [[0, 1, 2]] * 2
    for name, gradient in gradients(stage, sum(term.mean() for _, term in losses)).items():
        assert not gradient.any(), name


def test_negatives_are_uniform_first_and_by_similarity_after(drawn):
    stage, batch = build(uniform_share=0.5), tiny_batch()
    for progress in (0.0, 0.49):
        stage(batch, Step(0, 0, progress))
    assert all(not log_weight.any() for log_weight, _, _ in drawn)
    drawn.clear()
    stage(batch, Step(0, 0, 0.5))
    image, text = stage.bridge.qformer.encode_image(batch.vision), stage.bridge.qformer.encode_text(batch.text)
    cosine = stage.bridge.image_embeddings(image.states) @ stage.bridge.text_embeddings(text).T  # (image, query, text)
    best = cosine.amax(1) / stage.bridge.heads.temperature
    (for_texts, _, _), (for_images, _, _) = drawn
    assert torch.allclose(for_texts, best.T) and torch.allclose(for_images, best)
    assert not for_texts.requires_grad
    drawn.clear()
    build(negatives="hard")(batch, EARLY)
    assert all(log_weight.any() for log_weight, _, _ in drawn)


def test_draws_are_keyed_by_seed_epoch_direction_and_source_row(drawn):
    stage, batch = build(), tiny_batch()
    stage(batch, Step(seed=5, epoch=3, progress=0.0))
    for direction, (_, arguments, _) in enumerate(drawn):
        key = arguments["key"]
        assert (key.seed, key.epoch, key.direction) == (5, 3, direction)
        assert torch.equal(arguments["anchors"], batch.index) and torch.equal(arguments["candidates"], batch.index)


@pytest.mark.parametrize(("gather", "reaches"), [("exact", True), ("detached", False)])
def test_a_detached_gather_gives_no_gradient_to_the_other_side(gather, reaches):
    stage = build(gather=gather)
    image = torch.randn(4, 2, 8, dtype=torch.float64, requires_grad=True)
    text = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    stage.contrast(stage.embed(image, text)).image_text.sum().backward()
    assert image.grad.any() and (text.grad is not None) == reaches
    image.grad = text.grad = None
    stage.contrast(stage.embed(image, text)).text_image.sum().backward()
    assert text.grad.any() and (image.grad is not None) == reaches


def test_every_parameter_of_the_bridge_gets_a_gradient():
    stage, batch = build(), tiny_batch()
    sum(term.mean() for _, term in stage(batch, LATE)).backward()
    for name, parameter in stage.bridge.named_parameters():
        assert parameter.grad is not None, name
        # a bias on all keys of a softmax alike changes nothing
        assert parameter.grad.abs().sum() > 1e-9 or ".key.bias" in name or ".keys." in name, name


@pytest.mark.parametrize(("clamps", "after"), [(True, 0.5), (False, 0.8)])
def test_the_temperature_is_clamped_unless_told_otherwise(clamps, after):
    stage = build(clamp_temperature=clamps)
    stage.bridge.heads.temperature.data.fill_(0.8)
    stage(tiny_batch(), EARLY)
    assert stage.bridge.heads.temperature.item() == pytest.approx(after)


@pytest.mark.parametrize("names", [("itc", "itg", "itm"), ("itc",), ("itm",), ("itg",)])
def test_the_gradient_of_the_words_is_dense_and_that_of_every_pass(names, monkeypatch):
    """Rows that texts read are added to what the tied head gives; a dense gradient in every pass is the oracle."""
    gradients = []
    for _ in range(2):
        stage = build()
        losses = stage(tiny_batch(), LATE)
        sum(losses[name].sum for name in names).backward()
        gradients.append(stage.bridge.qformer.text.words.weight.grad)
        monkeypatch.setattr(TextHalf, "joined", lambda half: nullcontext())
    assert gradients[0].layout == torch.strided
    assert torch.allclose(*gradients, atol=1e-12, rtol=0)

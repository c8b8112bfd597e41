"""The three losses of stage 1 under `recipes/lavis.yaml` against the original's arithmetic, written out row by row.

What follows up to the fixtures uses nothing of isthmus: plain functions on a dict of tensors by the original's names
(salesforce/LAVIS, Qformer.py and blip2_qformer.py), BERT's layers with additive masks of -10,000, text padded to 32.
Negatives are the likeliest ones on both sides: the original's `multinomial` is an arg-max here, and so is our draw
when its noise is 0.
"""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from isthmus.config.stages import load_stages
from isthmus.models.bridge import Bridge
from isthmus.models.stage1 import Stage1, Stage1Options
from isthmus.objectives import negatives
from isthmus.qformer.layer import Dropouts
from isthmus.records import Batch, BridgeSizes, Identity, Step, Text
from originals import original_names, redrawn

LAYERS, HEADS = 4, 3
CLS, SEP, DEC, VOCABULARY = 2, 3, 28, 29
MASKED, PADDED, SMOOTHING, BERT_EPS, LN_VISION_EPS = -10_000.0, 32, 0.1, 1e-12, 1e-5
BERT = "Qformer.bert"


def dense(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def layer_norm(w, name, x, eps=BERT_EPS):
    centred = x - x.mean(-1, keepdim=True)
    return centred / ((centred**2).mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def attend(w, name, x, seen, bias):
    """One row's attention, head by head, and BERT's post-LN."""
    query, key, value = (
        dense(w, f"{name}.self.{part}", y) for part, y in {"query": x, "key": seen, "value": seen}.items()
    )
    size, heads = x.shape[1] // HEADS, []
    for head in range(HEADS):
        columns = slice(head * size, (head + 1) * size)
        scores = query[:, columns] @ key[:, columns].T / math.sqrt(size) + bias
        heads.append(scores.softmax(-1) @ value[:, columns])
    return layer_norm(w, f"{name}.output.LayerNorm", dense(w, f"{name}.output.dense", torch.cat(heads, 1)) + x)


def feed_forward(w, layer, x, which=""):
    hidden = gelu(dense(w, f"{layer}.intermediate{which}.dense", x))
    return layer_norm(w, f"{layer}.output{which}.LayerNorm", dense(w, f"{layer}.output{which}.dense", hidden) + x)


def embed(w, ids):
    return (
        w[f"{BERT}.embeddings.word_embeddings.weight"][ids]
        + w[f"{BERT}.embeddings.position_embeddings.weight"][: len(ids)]
    )


def bert(w, queries, words, visible, image=None):
    """One row through every layer, queries before text; returns both halves. `visible[i, j]`: i may look at j."""
    states = layer_norm(w, f"{BERT}.embeddings.LayerNorm", torch.cat([queries, words]))
    bias = torch.where(visible, 0.0, MASKED).double()
    count = len(queries)
    for number in range(LAYERS):
        layer = f"{BERT}.encoder.layer.{number}"
        states = attend(w, f"{layer}.attention", states, states, bias)
        looking, rest = states[:count], states[count:]
        if count:
            if number % 2 == 0:
                looking = attend(w, f"{layer}.crossattention", looking, image, 0.0)
            looking = feed_forward(w, layer, looking, "_query")
        states = torch.cat([looking, feed_forward(w, layer, rest)]) if len(rest) else looking
    return states[:count], states[count:]


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def cross_entropy(logits, label, smoothing=0.0):
    chances = logits.log_softmax(-1)
    return -(1 - smoothing) * chances[label] - smoothing * chances.mean()


def pad(ids):
    padded = torch.zeros(PADDED, dtype=torch.long)
    padded[: len(ids)] = ids
    return padded, torch.arange(PADDED) < len(ids)


def contrast(w, images, texts):
    """ITC's logits in both directions: what is gathered, one's own rows too, carries no gradient."""
    rows, queries, nothing = range(len(images)), w["query_tokens"], w["query_tokens"][:0]
    image_feats, text_feats = [], []
    for image, ids in zip(images, texts, strict=True):
        states, _ = bert(w, queries, nothing, torch.ones(len(queries), len(queries)).bool(), image)
        image_feats.append(unit(dense(w, "vision_proj", states)))
        ids, mask = pad(ids)
        _, words = bert(w, nothing, embed(w, ids), mask.expand(PADDED, PADDED))
        text_feats.append(unit(dense(w, "text_proj", words[0])))
    i2t = [torch.stack([(image_feats[b] @ text_feats[n].detach()).max() for n in rows]) / w["temp"] for b in rows]
    t2i = [torch.stack([(image_feats[n].detach() @ text_feats[b]).max() for n in rows]) / w["temp"] for b in rows]
    return i2t, t2i


def itc_loss(i2t, t2i):
    one = [cross_entropy(logits, row, SMOOTHING) for row, logits in enumerate(i2t)]
    two = [cross_entropy(logits, row, SMOOTHING) for row, logits in enumerate(t2i)]
    return (sum(one) / len(one) + sum(two) / len(two)) / 2


def likeliest_other(logits, row):
    weights = logits.detach().clone()
    weights[row] = MASKED
    return int(weights.softmax(0).argmax())


def itm_loss(w, images, texts, i2t, t2i):
    """3B rows: the pairs, each text with another image, each image with another text; never smoothed or weighted."""
    rows = range(len(images))
    pairs = [(b, b, 1) for b in rows]
    pairs += [(likeliest_other(t2i[b], b), b, 0) for b in rows]
    pairs += [(b, likeliest_other(i2t[b], b), 0) for b in rows]
    losses = []
    for image, text, match in pairs:
        ids, mask = pad(texts[text])
        seen = torch.cat([torch.ones(len(w["query_tokens"])).bool(), mask])
        states, _ = bert(w, w["query_tokens"], embed(w, ids), seen.expand(len(seen), len(seen)), images[image])
        losses.append(cross_entropy(dense(w, "itm_head", states).mean(0), match))
    return sum(losses) / len(losses)


def lm_loss(w, images, texts):
    """[DEC] for [CLS]; a token sees the queries and what stands before it; each predicts the next, but no padding."""
    count, losses = len(w["query_tokens"]), []
    for image, ids in zip(images, texts, strict=True):
        ids, mask = pad(ids)
        ids[0] = DEC
        visible = torch.zeros(count + PADDED, count + PADDED).bool()
        visible[:, :count] = True
        visible[count:, count:] = torch.ones(PADDED, PADDED).tril().bool() & mask
        _, states = bert(w, w["query_tokens"], embed(w, ids), visible, image)
        head = "Qformer.cls.predictions"
        states = layer_norm(w, f"{head}.transform.LayerNorm", gelu(dense(w, f"{head}.transform.dense", states)))
        logits = states @ w[f"{BERT}.embeddings.word_embeddings.weight"].T + w[f"{head}.bias"]
        losses += [cross_entropy(logits[t], ids[t + 1], SMOOTHING) for t in range(PADDED - 1) if mask[t + 1]]
    return sum(losses) / len(losses)


def original_losses(w, images, texts):
    """ITC, ITM and ITG of a batch: raw image features (P V) and token ids, a list of each."""
    images = [layer_norm(w, "ln_vision", image, LN_VISION_EPS) for image in images]
    i2t, t2i = contrast(w, images, texts)
    return {"itc": itc_loss(i2t, t2i), "itm": itm_loss(w, images, texts, i2t, t2i), "itg": lm_loss(w, images, texts)}


RECIPE = load_stages(Path(__file__).parents[2] / "recipes" / "lavis.yaml").runs[0]
OPTIONS = Stage1Options(**RECIPE.objectives.model_dump())
STEP = Step(seed=3, epoch=0, progress=0.0)
SIZES = BridgeSizes(
    vision_width=7,
    width=12,
    layers=LAYERS,
    heads=HEADS,
    feed_forward_width=20,
    queries=3,
    cross_frequency=RECIPE.bridge.cross_frequency,
    vocabulary=VOCABULARY,
    positions=40,
    patch_norm_eps=RECIPE.bridge.patch_norm_eps,
    shared_width=6,
)
CAPTIONS = {  # the words of each; [CLS] and [SEP] stand around them
    "ragged": [[5, 9, 4], [6], [20, 21, 22, 23, 24, 25, 26], [7, 7, 11, 8], [13, 12]],
    "two rows": [[5, 9, 4], [6, 17]],
    "equal captions": [[5, 9, 4], [6, 17], [5, 9, 4], [8]],
    "as long as text may be": [[4 + n % 24 for n in range(RECIPE.bridge.max_tokens - 2)], [15], [6, 14]],
}


@pytest.fixture(autouse=True)
def _likeliest_negatives(monkeypatch):
    monkeypatch.setattr(negatives, "gumbel", lambda *key: torch.zeros(()))


def build(options=OPTIONS):
    bridge = redrawn(Bridge(SIZES, Dropouts(0.0, 0.0, 0.0)).double())
    bridge.heads.temperature.data.fill_(0.07)
    return Stage1(bridge, dec=DEC, options=options)


def make_batch(captions):
    """Rows whose first and last share their `image_id`, which is nothing to the original."""
    rows = [torch.tensor([CLS, *words, SEP]) for words in captions]
    mask = torch.arange(max(map(len, rows))) < torch.tensor([len(row) for row in rows])[:, None]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    generator = torch.Generator().manual_seed(4)
    batch = Batch(
        vision=torch.randn(len(rows), 5, SIZES.vision_width, generator=generator, dtype=torch.float64) * 2 + 0.3,
        captions=tuple(map(str, captions)),
        text=Text(ids, mask),
        identity=Identity(
            torch.arange(len(rows)) % (len(rows) - 1), torch.tensor([captions.index(words) for words in captions])
        ),
        index=torch.arange(len(rows)) + 100,
    )
    return batch, rows


def differences(stage, batch, texts):
    """For each loss how far it is from the original's, and how far the worst gradient of a parameter is."""
    names = original_names(SIZES)
    parameters = dict(stage.bridge.named_parameters())
    assert names.keys() == parameters.keys()
    weights = {names[name]: parameter.detach().clone().requires_grad_() for name, parameter in parameters.items()}
    expected = original_losses(weights, list(batch.vision), texts)
    found = stage(batch, STEP)
    assert {name for name, _ in found} == expected.keys()
    far = {}
    for name, term in found:
        ours = torch.autograd.grad(term.mean(), parameters.values(), retain_graph=True, materialize_grads=True)
        theirs = torch.autograd.grad(expected[name], weights.values(), retain_graph=True, materialize_grads=True)
        apart = [((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in zip(ours, theirs, strict=True)]
        assert sum(bool(gradient.any()) for gradient in theirs) > 20
        far[name] = (abs(term.mean() - expected[name]).item() / max(1, abs(expected[name].item())), max(apart))
    return far


@pytest.mark.parametrize("captions", CAPTIONS)
def test_the_losses_and_all_gradients_are_the_original_s(captions):
    far = differences(build(), *make_batch(CAPTIONS[captions]))
    assert {name for name, pair in far.items() if max(pair) > 1e-12} == set(), far


@pytest.mark.parametrize(
    ("option", "value", "moves", "loss_too"),
    [
        ("gather", "exact", {"itc"}, False),
        ("identity", "image_or_caption", {"itc", "itm"}, True),
        ("negatives", "uniform_then_hard", {"itm"}, True),
        ("itc_smoothing", 0.0, {"itc"}, True),
        ("itg_smoothing", 0.0, {"itg"}, True),
    ],
)
def test_a_switch_of_the_recipe_turned_round_leaves_the_original(option, value, moves, loss_too):
    stage = build(replace(OPTIONS, uniform_share=0.3, **{option: value}))
    far = differences(stage, *make_batch(CAPTIONS["equal captions"]))
    assert {name for name, pair in far.items() if max(pair) > 1e-6} == moves, far
    assert {name for name, (loss, _) in far.items() if loss > 1e-9} == (moves if loss_too else set())


@pytest.mark.parametrize(("clamps", "equal"), [(OPTIONS.clamp_temperature, True), (True, False)])
def test_a_temperature_beyond_blip_1_s_range_is_left_alone(clamps, equal):
    batch, texts = make_batch(CAPTIONS["ragged"])
    stage = build(replace(OPTIONS, clamp_temperature=clamps))
    stage.bridge.heads.temperature.data.fill_(0.8)
    weights = {original_names(SIZES)[name]: tensor.detach().clone() for name, tensor in stage.bridge.named_parameters()}
    found = stage(batch, STEP)["itc"].mean()
    assert torch.isclose(found, original_losses(weights, list(batch.vision), texts)["itc"], rtol=1e-12) == equal

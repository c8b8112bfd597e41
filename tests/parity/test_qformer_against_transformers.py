"""The Q-Former and its heads against transformers' BLIP-2, on the same random weights and ragged text.

transformers has no LM head, no causal mode and no word embeddings in its Q-Former: text is embedded here, and the
causal path is one pass of its layers under a float mask of four axes.
"""

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    Blip2Config,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
)

from isthmus.models.bridge import Bridge
from isthmus.objectives.itc import image_to_text
from isthmus.qformer.layer import Dropouts
from isthmus.records import BridgeSizes, Text
from originals import redrawn, transformers_names

TINY = BridgeSizes(
    vision_width=40,
    width=48,
    layers=4,
    heads=4,
    feed_forward_width=96,
    queries=5,
    vocabulary=99,
    positions=64,
    patch_norm_eps=1e-6,
    shared_width=24,
)
FULL = BridgeSizes(vision_width=1408)
PATHS = ["image", "text", "joint", "causal"]
DTYPES = {"fp64": (torch.float64, 1e-12), "fp32": (torch.float32, 1e-5)}


def qformer_config(sizes):
    return Blip2QFormerConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.feed_forward_width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=sizes.positions,
        layer_norm_eps=sizes.norm_eps,
        cross_attention_frequency=sizes.cross_frequency,
        encoder_hidden_size=sizes.vision_width,
        use_qformer_text_input=True,
    )


def fresh(sizes, dtype, *, matrices=0.1):
    return redrawn(Bridge(sizes, Dropouts(0.0, 0.0, 0.0)).to(dtype), matrices=matrices)


def same_qformer(bridge, attention):
    """transformers' Q-Former with the bridge's weights, every key of it."""
    names, parameters = transformers_names(bridge.sizes), dict(bridge.named_parameters())
    theirs = Blip2QFormerModel._from_config(qformer_config(bridge.sizes), attn_implementation=attention)
    tensors = {names[name]: parameter for name, parameter in parameters.items() if name in names}
    own = {name.removeprefix("qformer."): t for name, t in tensors.items() if name.startswith("qformer.")}
    theirs.to(bridge.qformer.queries.dtype).load_state_dict(own)
    return theirs.eval()


def rows(sizes, dtype, lengths=(5, 9, 2)):
    generator = torch.Generator().manual_seed(5)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(1, sizes.vocabulary, mask.shape, generator=generator) * mask
    patches = torch.randn(len(lengths), 7, sizes.vision_width, generator=generator, dtype=torch.float64) * 2 + 0.3
    return Text(ids, mask), patches.to(dtype)


def causal_mask(count, mask, dtype):
    """Queries look at queries; token t looks at all queries and at tokens up to itself that are no padding."""
    batch, length = mask.shape
    allowed = torch.zeros(batch, 1, count + length, count + length, dtype=torch.bool)
    allowed[..., :count] = True
    for t in range(length):
        allowed[:, 0, count + t, count : count + t + 1] = mask[:, : t + 1]
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


def by_transformers(path, bridge, theirs, text, patches):
    """What a verb of ours returns, by transformers' Q-Former."""
    qformer, count = bridge.qformer, bridge.sizes.queries
    queries = qformer.queries.expand(len(patches), -1, -1)
    words = qformer.text.words.weight[text.ids] + qformer.text.positions.weight[: text.ids.shape[1]]
    image = F.layer_norm(
        patches, patches.shape[-1:], qformer.memory.norm.weight, qformer.memory.norm.bias, bridge.sizes.patch_norm_eps
    )
    if path == "text":
        return theirs(words, query_length=0, attention_mask=text.mask.long()).last_hidden_state[:, 0]
    if path == "image":
        return theirs(queries, encoder_hidden_states=image).last_hidden_state
    both, seen = torch.cat([queries, words], 1), F.pad(text.mask.long(), (count, 0), value=1)
    if path == "joint":
        given = {"attention_mask": seen, "encoder_hidden_states": image}
        return theirs(both, query_length=count, **given).last_hidden_state[:, :count]
    given = {"attention_mask": causal_mask(count, text.mask, both.dtype), "encoder_hidden_states": image}
    states = theirs(both, query_length=count, **given).last_hidden_state[:, count:]
    return qformer.predict(states[text.mask])


def by_ours(path, bridge, text, patches):
    qformer = bridge.qformer
    if path == "text":
        return qformer.encode_text(text)
    image = qformer.encode_image(patches)
    if path == "image":
        return image.states
    if path == "joint":
        return qformer.fuse(text, image.memory)
    return qformer.predict(qformer.decode(text, image.prefix)[text.mask])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_transformers(path, precision, attention):
    dtype, near = DTYPES[precision]
    bridge = fresh(TINY, dtype)
    expected = by_transformers(path, bridge, same_qformer(bridge, attention), *rows(TINY, dtype))
    found = by_ours(path, bridge, *rows(TINY, dtype))
    assert found.std() > 0.1
    assert (found - expected).abs().max() <= near


@pytest.mark.parametrize("path", PATHS)
def test_the_gradients_are_transformers_too(path):
    """Of every tensor that both sides read: those of the Q-Former's layers, of the queries, patch norm and text."""
    bridge = fresh(TINY, torch.float64)
    theirs, (text, patches) = same_qformer(bridge, "eager"), rows(TINY, torch.float64)
    found, expected = by_ours(path, bridge, text, patches), by_transformers(path, bridge, theirs, text, patches)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    own, layers = dict(bridge.named_parameters()), dict(theirs.named_parameters())
    names = {name: theirs.removeprefix("qformer.") for name, theirs in transformers_names(TINY).items()}
    outside = {name: parameter for name, parameter in own.items() if names.get(name) not in layers}
    ours = torch.autograd.grad((found * weight).sum(), own.values(), materialize_grads=True)
    others = torch.autograd.grad(
        (expected * weight).sum(), [*layers.values(), *outside.values()], materialize_grads=True
    )
    wanted = dict(zip([*layers, *outside], others, strict=True))
    for name, gradient in zip(own, ours, strict=True):
        other = wanted[name if name in outside else names[name]]
        assert (gradient - other).abs().max() <= 1e-12 * other.abs().max().clamp(min=1), name
    assert sum(bool(gradient.any()) for gradient in ours) > 40


@pytest.fixture(scope="module")
def full_size():
    """12 layers of width 768, 32 queries, patches of 1,408, in fp32: a bridge, and transformers' Q-Former as it is.

    Matrices at BERT's own spread: at 0.1 and this width attention is a coin toss, which rounding decides (on the joint
    path fp64 came 1e-8 apart and fp32 more than 1).
    """
    bridge = fresh(FULL, torch.float32, matrices=0.02)
    return bridge, same_qformer(bridge, "sdpa")


@pytest.mark.full_size
@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_transformers_at_full_size(path, full_size, capsys):
    bridge, theirs = full_size
    with torch.no_grad():
        text, patches = rows(FULL, torch.float32, lengths=(5, 32))
        found, expected = by_ours(path, bridge, text, patches), by_transformers(path, bridge, theirs, text, patches)
    far = (found - expected).abs().max().item()
    with capsys.disabled():
        print(f"\n{path}: {far:.1e} at most, of values that spread by {found.std():.2f}")  # noqa: T201
    assert far <= 5e-5


def retrieval(bridge, dtype):
    """transformers' retrieval model with the bridge's weights and a tiny image encoder of its own."""
    vision = Blip2VisionConfig(
        hidden_size=TINY.vision_width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=28,
        patch_size=14,
        layer_norm_eps=TINY.patch_norm_eps,
    )
    config = Blip2Config(
        vision_config=vision.to_dict(),
        qformer_config=qformer_config(TINY).to_dict(),
        num_query_tokens=TINY.queries,
        image_text_hidden_size=TINY.shared_width,
    )
    model = redrawn(Blip2ForImageTextRetrieval(config).to(dtype), seed=1)
    names = transformers_names(bridge.sizes)
    parameters = dict(bridge.named_parameters())
    assert names.keys() == parameters.keys()
    rest = {name for name in model.state_dict() if name not in names.values()}
    assert all(name.startswith(("vision_model.embeddings.", "vision_model.encoder.")) for name in rest)
    own = {name: model.state_dict()[name] for name in rest}
    own |= {
        names[name]: tensor.detach().view_as(model.state_dict()[names[name]]) for name, tensor in parameters.items()
    }
    model.load_state_dict(own)
    return model


@pytest.mark.parametrize("precision", DTYPES)
def test_the_scores_of_itm_and_itc_are_transformers(precision):
    dtype, near = DTYPES[precision]
    bridge = fresh(BridgeSizes(**{**vars(TINY), "lm_head": False, "temperature": False}), dtype)
    model, (text, _) = retrieval(bridge, dtype), rows(TINY, dtype)
    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)
    given = {"pixel_values": pixels, "input_ids": text.ids, "attention_mask": text.mask.long()}
    with torch.no_grad():
        patches = model.vision_model.encoder(inputs_embeds=model.vision_model.embeddings(pixels)).last_hidden_state
        image = bridge.qformer.encode_image(patches)
        match = bridge.match_logits(bridge.qformer.fuse(text, image.memory))
        cosine = image_to_text(
            bridge.image_embeddings(image.states), bridge.text_embeddings(bridge.qformer.encode_text(text))
        )
        matched = model(**given, use_image_text_matching_head=True).logits_per_image
        compared = model(**given).logits_per_image
    assert match.shape == (3, 2) and cosine.shape == (3, 3)
    assert match.std() > 0.01 and cosine.std() > 0.01
    assert (match - matched).abs().max() <= near
    assert (cosine - compared).abs().max() <= near

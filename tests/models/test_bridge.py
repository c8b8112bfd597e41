"""Sizes of BLIP-2's own bridge, by the published counts, and what an absent part answers."""

import pytest
import torch

from bridges import tiny_batch, tiny_bridge
from isthmus.errors import AbsentPartError
from isthmus.models.bridge import Bridge
from isthmus.records import BridgeSizes


def meta_bridge(**sizes):
    with torch.device("meta"):
        return Bridge(BridgeSizes(vision_width=1408, **sizes))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_stage_1_at_blip2_size_has_the_published_number_of_parameters():
    assert count(meta_bridge()) == 186_705_470


def test_stage_2_at_blip2_size_has_the_published_number_of_parameters():
    bridge = meta_bridge(language_width=2560, text=False, shared_width=None)
    assert count(bridge) == 107_133_696
    assert count(bridge.projection) == 768 * 2560 + 2560
    assert bridge.heads is None and bridge.qformer.text is None
    names = [name for name, _ in bridge.named_parameters()]
    assert not [name for name in names if "text" in name or "head" in name.split(".")]
    assert all(layer.text_feed_forward is None for layer in bridge.qformer.layers)


def test_cross_attention_stands_in_every_second_layer():
    layers = meta_bridge().qformer.layers
    assert [layer.cross_attention is not None for layer in layers] == [True, False] * 6


def test_an_absent_part_is_refused_by_name():
    batch = tiny_batch()
    with pytest.raises(AbsentPartError, match="no projection into a language model"):
        tiny_bridge().soft_prompt(batch.vision)
    bridge = tiny_bridge(shared_width=None, text=False, language_width=7)
    assert bridge.soft_prompt(batch.vision).shape == (4, 2, 7)
    states = bridge.qformer.encode_image(batch.vision).states
    for call in (bridge.need_heads, lambda: bridge.image_embeddings(states), lambda: bridge.match_logits(states)):
        with pytest.raises(AbsentPartError, match="no ITC and ITM heads"):
            call()
    with pytest.raises(AbsentPartError, match="no text half"):
        bridge.qformer.encode_text(batch.text)


def test_features_are_normalised_and_match_logits_are_the_mean_over_queries():
    bridge, batch = tiny_bridge(), tiny_batch()
    states = bridge.qformer.encode_image(batch.vision).states
    assert torch.allclose(bridge.image_embeddings(states).norm(dim=-1), torch.ones(4, 2, dtype=torch.float64))
    assert torch.allclose(bridge.text_embeddings(states[:, 0]).norm(dim=-1), torch.ones(4, dtype=torch.float64))
    by_hand = (bridge.heads.match(states[:, 0]) + bridge.heads.match(states[:, 1])) / 2
    assert torch.allclose(bridge.match_logits(states), by_hand)


@pytest.mark.parametrize(("drifted", "held"), [(0.9, 0.5), (-1.0, 0.001), (0.07, 0.07)])
def test_the_temperature_is_held_in_its_range(drifted, held):
    bridge = tiny_bridge()
    bridge.heads.temperature.data.fill_(drifted)
    bridge.heads.clamp_temperature()
    assert bridge.heads.temperature.item() == pytest.approx(held)


def test_half_precision_patches_are_computed_in_the_bridges_own_precision():
    bridge = tiny_bridge(language_width=7).float()
    stored = tiny_batch().vision.bfloat16()
    assert torch.equal(bridge.soft_prompt(stored), bridge.soft_prompt(stored.float()))
    assert torch.equal(bridge.qformer(None, None, stored).queries, bridge.qformer(None, None, stored.float()).queries)


def test_a_settled_bridge_gives_the_numbers_of_autocast_to_the_bit():
    bridge, batch = tiny_bridge().float().eval(), tiny_batch()
    patches = batch.vision.bfloat16()

    def logits():
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            image = bridge.qformer.encode_image(patches)
            return bridge.match_logits(bridge.qformer.fuse(batch.text, image.memory)), image.states

    before = logits()
    assert bridge.settle(torch.bfloat16) is bridge
    assert bridge.qformer.layers[0].self_attention.query.weight.dtype == torch.bfloat16
    assert bridge.heads.image.weight.dtype == bridge.qformer.norm.weight.dtype == torch.float32
    assert all(torch.equal(*both) for both in zip(logits(), before, strict=True))

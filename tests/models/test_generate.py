"""Captions by the Q-Former equal a slow decode through the plain definition; what `Decoding` does to them."""

from dataclasses import replace

import pytest
import torch

from bridges import redraw, tiny_batch, tiny_bridge
from fakes import bert_tokenizer
from isthmus.errors import ConfigError
from isthmus.language.llm import Decoding, FrozenLLM
from isthmus.models.generate import caption_by_llm, caption_by_qformer
from isthmus.qformer.masks import multimodal_causal
from isthmus.qformer.tokenizer import QFormerTokenizer
from isthmus.records import Text


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    bert_tokenizer().save_pretrained(folder)
    return QFormerTokenizer(folder)


def build(tokenizer, *, end=0.0):
    bridge = tiny_bridge(vocabulary=tokenizer.vocabulary).eval()
    redraw(bridge, seed=4)
    with torch.no_grad():
        bridge.qformer.text.head.bias[tokenizer.sep] += end
    return bridge


def slow_caption(bridge, tokenizer, patches, limit):
    """One image, one token at a time, nothing kept: figure 2 under the causal mask, from the start each time."""
    ids = [tokenizer.dec]
    while len(ids) <= limit:
        text = Text(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))
        states = bridge.qformer(text, multimodal_causal(2, text.mask), patches[None]).text
        ids.append(int(bridge.qformer.predict(states[0, -1]).argmax()))
        if ids[-1] == tokenizer.sep:
            break
    return tokenizer.decode(torch.tensor(ids)), len(ids) - 1


@pytest.mark.parametrize("often", [1.0, 0.8, 0.0], ids=["never", "at different places", "half of the time"])
def test_greedy_captions_are_the_slow_ones_and_stop_at_sep(tokenizer, monkeypatch, often):
    bridge, patches = build(tokenizer), tiny_batch((3,) * 10).vision
    predict = bridge.qformer.predict

    def predict_ends(states):
        """Logits with [SEP] first wherever a state's hash says so, so that rows end at different places."""
        logits = predict(states)
        logits[..., tokenizer.sep] += 1e3 * (torch.sin(1e4 * states[..., 0]) > often)
        return logits

    monkeypatch.setattr(bridge.qformer, "predict", predict_ends)
    with torch.no_grad():
        slow = [slow_caption(bridge, tokenizer, image, 6) for image in patches]
    assert caption_by_qformer(bridge, tokenizer, patches, Decoding(max_new_tokens=6)) == [
        caption for caption, _ in slow
    ]
    assert (len({length for _, length in slow}) > 2) == (often < 1)


def test_decoding_stops_when_every_row_has_its_sep(tokenizer, monkeypatch):
    bridge, calls = build(tokenizer, end=1e6), []
    decode = bridge.qformer.decode
    monkeypatch.setattr(bridge.qformer, "decode", lambda *given: calls.append(1) or decode(*given))
    assert caption_by_qformer(bridge, tokenizer, tiny_batch().vision, Decoding(max_new_tokens=6)) == [""] * 4
    assert len(calls) == 1


def test_at_least_as_many_tokens_as_asked_for(tokenizer, monkeypatch):
    bridge, calls = build(tokenizer, end=1e6), []
    decode = bridge.qformer.decode
    monkeypatch.setattr(bridge.qformer, "decode", lambda *given: calls.append(1) or decode(*given))
    patches = tiny_batch().vision
    assert all(caption_by_qformer(bridge, tokenizer, patches, Decoding(max_new_tokens=6, min_new_tokens=2)))
    assert len(calls) == 3


def test_a_repetition_penalty_writes_no_token_twice(tokenizer):
    bridge, patches = build(tokenizer, end=-1e6), tiny_batch().vision
    with torch.no_grad():
        bridge.qformer.text.head.bias += 100.0  # positive scores, which a penalty divides
    penalised = caption_by_qformer(bridge, tokenizer, patches, Decoding(max_new_tokens=8, repetition_penalty=1e6))
    plain = caption_by_qformer(bridge, tokenizer, patches, Decoding(max_new_tokens=8))
    assert penalised != plain
    for caption in penalised:
        ids = tokenizer.inner(caption, add_special_tokens=False).input_ids
        assert len(set(ids)) == len(ids)


def test_sampling_is_keyed_by_the_seed_and_blind_to_the_batch(tokenizer):
    bridge, patches = build(tokenizer), tiny_batch((3,) * 6).vision
    sample = Decoding(max_new_tokens=5, temperature=1.0, seed=3)
    together = caption_by_qformer(bridge, tokenizer, patches, sample)
    assert together == caption_by_qformer(bridge, tokenizer, patches, sample)
    assert together == [caption_by_qformer(bridge, tokenizer, image[None], sample)[0] for image in patches]
    assert together != caption_by_qformer(bridge, tokenizer, patches, replace(sample, seed=4))
    narrow = replace(sample, top_p=1e-9)
    assert caption_by_qformer(bridge, tokenizer, patches, narrow) == caption_by_qformer(
        bridge, tokenizer, patches, Decoding(max_new_tokens=5)
    )


def test_a_text_longer_than_the_positions_ends_there(tokenizer):
    bridge = build(tokenizer, end=-1e6)
    (caption,) = caption_by_qformer(bridge, tokenizer, tiny_batch((3,)).vision, Decoding(max_new_tokens=99))
    assert caption


def test_beams_are_refused(tokenizer):
    with pytest.raises(ConfigError, match="the Q-Former writes without beams, and num_beams is 2"):
        caption_by_qformer(build(tokenizer), tokenizer, tiny_batch().vision, Decoding(num_beams=2))


def test_captions_by_a_language_model_are_its_own_continuation_of_the_soft_prompt():
    bridge, patches = tiny_bridge(language_width=7), tiny_batch().vision

    class Echo(FrozenLLM):
        def generate(self, soft_prompt, decoding, *, prompts=None):
            assert torch.equal(soft_prompt, bridge.soft_prompt(patches))
            return [f"{prompt}: {decoding.max_new_tokens} tokens" for prompt in prompts or ["none"] * 4]

        tokenize = row_losses = embed = vocabulary = None

    three = Decoding(max_new_tokens=3)
    assert caption_by_llm(bridge, Echo(), patches, three) == ["none: 3 tokens"] * 4
    asked = caption_by_llm(bridge, Echo(), patches, three, prompts=["a", "b", "c", "d"])
    assert asked == [f"{prompt}: 3 tokens" for prompt in "abcd"]

"""Greedy captions by the Q-Former equal a slow decode through the plain definition."""

import pytest
import torch

from bridges import redraw, tiny_batch, tiny_bridge
from fakes import bert_tokenizer
from isthmus.language.llm import FrozenLLM
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
    assert caption_by_qformer(bridge, tokenizer, patches, max_new_tokens=6) == [caption for caption, _ in slow]
    assert (len({length for _, length in slow}) > 2) == (often < 1)


def test_decoding_stops_when_every_row_has_its_sep(tokenizer, monkeypatch):
    bridge, calls = build(tokenizer, end=1e6), []
    decode = bridge.qformer.decode
    monkeypatch.setattr(bridge.qformer, "decode", lambda *given: calls.append(1) or decode(*given))
    assert caption_by_qformer(bridge, tokenizer, tiny_batch().vision, max_new_tokens=6) == [""] * 4
    assert len(calls) == 1


def test_captions_by_a_language_model_are_its_own_continuation_of_the_soft_prompt():
    bridge, patches = tiny_bridge(language_width=7), tiny_batch().vision

    class Echo(FrozenLLM):
        def generate(self, soft_prompt, *, max_new_tokens):
            assert torch.equal(soft_prompt, bridge.soft_prompt(patches))
            return [f"{max_new_tokens} tokens"] * len(soft_prompt)

        tokenize = row_losses = embed = vocabulary = None

    assert caption_by_llm(bridge, Echo(), patches, max_new_tokens=3) == ["3 tokens"] * 4

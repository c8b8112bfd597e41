"""Finished rows leave the batch, and every row's tokens are those of transformers' own search, which keeps them."""

import inspect

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import decoders
import encoder_decoders
from fakes import byte_tokenizer
from isthmus.language import decoder_only, encoder_decoder
from isthmus.language.decoder_only import DecoderOnlyLLM
from isthmus.language.llm import Decoding
from isthmus.language.prompts import Prompt

MARKS = {"vocab_size": 260, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
HALF = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
SLIDING = {**HALF, "num_hidden_layers": 2, "head_dim": 8, "sliding_window": 6}
STATES = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
MIXED = {"layer_types": ["linear_attention", "full_attention"], "mlp_only_layers": [0, 1], "num_hidden_layers": 2}
LINEAR = {f"linear_{what}": 2 for what in ("num_key_heads", "num_value_heads")}
OTHERS = {
    "gemma3_text": SLIDING,
    "mistral": SLIDING,
    "mamba": STATES,
    "qwen3_next": {**HALF, **MIXED, **LINEAR, "head_dim": 8, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "recurrent_gemma": {**HALF, "num_hidden_layers": 3, "lru_width": 16, "head_dim": 8},
    "rwkv": {"hidden_size": 16, "attention_hidden_size": 16, "num_hidden_layers": 2, "context_length": 64},
}
STAY = ("recurrent_gemma", "rwkv")  # what they have read is no cache
FAMILIES = [*decoders.MODELS, *encoder_decoders.MODELS, *OTHERS]
WAYS = {
    "greedy": {},
    "sampling": {"temperature": 0.7, "top_p": 0.95, "seed": 3},
    "penalty": {"min_new_tokens": 3, "repetition_penalty": 1.7},
}
PROMPTS = [" is", " holds a very long", "", " and", " a", " is it"]


def build(family):
    if family in encoder_decoders.MODELS:
        return encoder_decoders.llm(family).float()
    if family in decoders.MODELS:
        return decoders.llm(family).float()
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **MARKS, **OTHERS[family]))
    for weights in model.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.5)
    return DecoderOnlyLLM(model, byte_tokenizer(bos=False), Prompt(after=" is"), address=f"folder:{family}")


@pytest.fixture
def keeping(monkeypatch):
    """Let transformers search, with every row to the end."""

    def switch():
        for room in (decoder_only, encoder_decoder):
            monkeypatch.setattr(room, "row_by_row", lambda decoding: {})

    return switch


class Watch:
    """Counts the rows of each forward, and keeps the ids that `generate` gave."""

    def __init__(self, tower):
        self.rows, self.ids = [], []
        forward, generate = tower.model.forward, tower.model.generate
        names = ("inputs_embeds", "input_ids", "decoder_input_ids")

        def counted(*arguments, **given):
            read = next(given[name] for name in reversed(names) if given.get(name) is not None)
            self.rows.append(len(read))
            return forward(*arguments, **given)

        counted.__signature__ = inspect.signature(forward)
        tower.model.forward = counted
        tower.model.generate = lambda **given: self.ids.append(generate(**given)) or self.ids[-1]


def watched(tower, decoding, prompts=None):
    """Texts, rows of each forward, ids; every eighth token stops, so that rows end at different times."""
    tower._stops = set(range(0, 260, 8))
    if isinstance(tower, DecoderOnlyLLM) and tower._before:
        tower._prefix(1)  # computed before the counting begins
    watch, soft = Watch(tower), 8 * decoders.soft_prompt(tower, 6).detach().float()
    return tower.generate(soft, decoding, prompts=prompts), watch.rows, watch.ids[0]


def rows_at_work(ids):
    """How many rows have not ended, for each step."""
    ends = [next((at for at, token in enumerate(row) if token % 8 == 0), 11) for row in ids.tolist()]
    return [sum(end >= step for end in ends) for step in range(max(ends) + 1)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_those_of_a_search_that_keeps_finished_rows(family, way, keeping):
    decoding = Decoding(max_new_tokens=12, **WAYS[way])
    prompts = None if family in STAY or family == "mamba" else PROMPTS  # padding is no matter of these
    texts, left, ids = watched(build(family), decoding, prompts)
    keeping()
    expected, stayed, wanted = watched(build(family), decoding, prompts)
    assert torch.equal(ids, wanted) and texts == expected
    asked = ids[:, 1:] if family in encoder_decoders.MODELS else ids
    assert set(stayed) == {6} and len(stayed) == len(left) > 1
    assert left == (stayed if family in STAY else rows_at_work(asked))
    assert len(set(rows_at_work(asked))) > 1 or (family, way) == ("bart", "greedy")  # it repeats one token


def test_an_end_mark_of_several_tokens_lets_a_row_leave(monkeypatch):
    tower = decoders.llm(prompt=Prompt(before="see:", end=";;"))
    tower._prefix(1)
    watch, forward = Watch(tower), tower.model.forward
    texts = [" a;;", " long;;", ";;"]

    def spell(*arguments, **given):
        output, step = forward(*arguments, **given), len(watch.rows) - 1
        output.logits = torch.full_like(output.logits[:, -1:], -1.0)
        for row, text in enumerate(text for text in texts if step < len(text)):
            output.logits[row, 0, decoders.spelled(text)[step]] = 1.0
        return output

    spell.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(tower.model, "forward", spell)
    assert tower.generate(decoders.soft_prompt(tower, 3), Decoding(max_new_tokens=12)) == ["a", "long", ""]
    assert watch.rows == [3, 3, 2, 2, 1, 1, 1]


def test_beams_are_left_to_transformers():
    tower = build("llama")
    _, rows, _ = watched(tower, Decoding(max_new_tokens=5, num_beams=3))
    assert set(rows[1:]) == {18}

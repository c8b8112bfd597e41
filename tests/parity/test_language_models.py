"""Language models behind our contract against transformers' own `labels=` loss and `generate`, every listed type.

Redrawn weights, ragged captions; no label on soft prompt, prompt and padding. In fp64 all of transformers computes in
it, where of itself it takes losses, softmax and many norms in fp32.
"""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from decoders import soft_prompt, spelled
from fakes import byte_tokenizer
from isthmus.language import heads
from isthmus.language.decoder_only import DecoderOnlyLLM
from isthmus.language.encoder_decoder import EncoderDecoderLLM
from isthmus.language.heads import HEADS
from isthmus.language.llm import Decoding
from isthmus.language.prompts import Prompt
from originals import Fp64, redrawn

MARKS = {"vocab_size": 260, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
HALF = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
ROTARY = {**HALF, "intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6}
T5 = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
CAPPED = {**ROTARY, "final_logit_softcapping": 0.5, "attn_logit_softcapping": 0.7, "query_pre_attn_scalar": 8}
DECODERS = {
    "cohere": {**ROTARY, "logit_scale": 3.0},
    "cohere2": {**ROTARY, "logit_scale": 3.0},
    "gemma2": CAPPED,
    "gemma2 uncapped": {**CAPPED, "final_logit_softcapping": None},
    "gemma3_text": CAPPED,
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 4},
    "granite": {**ROTARY, "logits_scaling": 0.3, "embedding_multiplier": 2.0, "residual_multiplier": 0.7},
    "llama": ROTARY,
    "mistral": ROTARY,
    "opt": {**HALF, "ffn_dim": 32, "word_embed_proj_dim": 8, "do_layer_norm_before": True},
    "phi3": ROTARY,
    "qwen2": ROTARY,
    "qwen3": ROTARY,
    "smollm3": ROTARY,
}
ENCODER_DECODERS = {
    "bart": {
        "d_model": 16,
        "decoder_start_token_id": 2,
        **{f"{half}_layers": 2 for half in ("encoder", "decoder")},
        **{f"{half}_ffn_dim": 32 for half in ("encoder", "decoder")},
        **{f"{half}_attention_heads": 4 for half in ("encoder", "decoder")},
    },
    "mt5": T5,
    "t5": T5,
    "t5 untied": {**T5, "tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"},  # as Flan-T5
}
KINDS = {**DECODERS, **ENCODER_DECODERS}
NEAR = {torch.float64: 1e-12, torch.float32: 1e-5}
PROMPT = Prompt(before="see:", after=" is")
CAPTIONS, DRAWS = ["a dog", "red", "two big cats", "x"], [0.01, 0.99, 0.5, 0.7]


def build(kind, dtype, matrices=0.1):
    causal = kind in DECODERS
    config = AutoConfig.for_model(kind.split()[0], **MARKS, **KINDS[kind])
    auto = AutoModelForCausalLM if causal else AutoModelForSeq2SeqLM
    model = redrawn(auto.from_config(config, attn_implementation="eager").to(dtype), matrices=matrices)
    if kind == "bart":
        model.final_logits_bias.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    tower = DecoderOnlyLLM if causal else EncoderDecoderLLM
    return tower(model, byte_tokenizer(bos=causal), PROMPT, address=f"folder:{kind}")


def padded(rows, filler):
    return torch.tensor([row + [filler] * (max(map(len, rows)) - len(row)) for row in rows])


def around(tower, soft, before, after):
    """Embeddings of [before] [soft prompt] [after, ragged] and where they are no padding."""
    embed, batch = tower.model.get_input_embeddings(), len(soft)
    sequence = torch.cat([embed(torch.tensor([before] * batch)), soft, embed(padded(after, 0))], 1)
    return sequence, padded([[1] * (len(before) + soft.shape[1] + len(row)) for row in after], 0)


def by_transformers(tower, soft):
    """The output for `labels=`, with those labels, and the logits that predict them: those before, or beside, them."""
    if isinstance(tower, DecoderOnlyLLM):
        captions = [spelled(f" {caption}\n") for caption in CAPTIONS]
        after = [spelled(" is") + row for row in captions]
        sequence, mask = around(tower, soft, [1, *spelled("see:")], after)
        start = sequence.shape[1] - max(map(len, captions))
        labels = F.pad(padded(captions, -100), (start, 0), value=-100)
        output = tower.model(inputs_embeds=sequence, attention_mask=mask, labels=labels)
        return output, labels[:, 1:], output.logits[:, :-1]
    cuts = [1, 1, 4, 0]
    after = [[*spelled(f" is{caption[:cut]}"), 2] for caption, cut in zip(CAPTIONS, cuts, strict=True)]
    labels = padded([[*spelled(caption[cut:]), 2] for caption, cut in zip(CAPTIONS, cuts, strict=True)], -100)
    sequence, mask = around(tower, soft, spelled("see:"), after)
    output = tower.model(inputs_embeds=sequence, attention_mask=mask, labels=labels)
    return output, labels, output.logits


def far(found, expected):
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


@pytest.fixture
def logits(monkeypatch):
    """The logits that a tower takes its loss of, as it does."""
    kept = []

    def keeping(head):
        return replace(head, logits=lambda *given: kept.append(head.logits(*given)) or kept[-1])

    monkeypatch.setattr(heads, "HEADS", {kind: keeping(head) for kind, head in HEADS.items()})
    return kept


def test_every_listed_type_is_here():
    assert set(HEADS) == {kind.split()[0] for kind in KINDS}


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_losses_and_gradients_are_transformers(kind, dtype, logits):
    tower = build(kind, dtype)
    soft = soft_prompt(tower, 4).detach().to(dtype).requires_grad_()
    with Fp64() if dtype == torch.float64 else nullcontext():
        output, labels, predicting = by_transformers(tower, soft)
        sums, weights = tower.row_losses(soft, tower.tokenize(CAPTIONS, DRAWS))
        term = tower.loss(soft, tower.tokenize(CAPTIONS, DRAWS))
    rows = F.cross_entropy(predicting.transpose(1, 2), labels, ignore_index=-100, reduction="none").sum(1)
    assert weights.tolist() == (labels != -100).sum(1).tolist()
    assert predicting.std() > 0.05
    assert far(logits[0], predicting[labels != -100]) <= NEAR[dtype]
    assert far(sums, rows) <= NEAR[dtype]
    assert far(term.mean(), output.loss) <= NEAR[dtype]
    (found,), (wanted,) = torch.autograd.grad(term.mean(), soft), torch.autograd.grad(output.loss, soft)
    scale = wanted.abs().amax(dim=(1, 2), keepdim=True)
    assert scale.min() > 1e-4
    assert far(found / scale, wanted / scale) <= NEAR[dtype]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_written_ids_are_transformers(kind, beams, monkeypatch):
    tower = build(kind, torch.float64, matrices=0.5)
    soft = soft_prompt(tower, 4).detach()
    written, generate = [], tower.model.generate
    monkeypatch.setattr(tower.model, "generate", lambda **given: written.append(generate(**given)) or written[-1])
    tower.generate(soft, Decoding(max_new_tokens=7, num_beams=beams))
    causal = isinstance(tower, DecoderOnlyLLM)
    before = [1, *spelled("see:")] if causal else spelled("see:")
    sequence, mask = around(tower, soft, before, [spelled(" is") + ([] if causal else [2])] * 4)
    expected = generate(
        inputs_embeds=sequence,
        attention_mask=mask,
        max_new_tokens=7,
        num_beams=beams,
        do_sample=False,
        eos_token_id=[2, *spelled("\n")] if causal else 2,
        pad_token_id=0,
        **({} if causal else {"decoder_start_token_id": tower.model.config.decoder_start_token_id}),
    )
    assert torch.equal(written[0], expected)
    assert len({tuple(row) for row in expected.tolist()}) > 1

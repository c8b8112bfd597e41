"""Whole BLIP-2s of seven language models: transformers' loss and gradients against ours on the same weights.

Stage 2 as it trains: pixels through the image tower, queries, projection, language model, loss on the captions. The
bridge comes over by the key tables, and its gradients are compared key by key.
"""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, Blip2Config, Blip2ForConditionalGeneration, Blip2QFormerConfig, Blip2VisionConfig

from blip2_models import IMAGE_TOKEN, QFORMER, QUERIES, VISION
from fakes import byte_tokenizer
from isthmus.build.bridge import load_bridge
from isthmus.checkpoints.transformers import open_transformers, read_transformers
from isthmus.language.decoder_only import DecoderOnlyLLM
from isthmus.language.encoder_decoder import EncoderDecoderLLM
from isthmus.language.prompts import Prompt
from isthmus.models.stage2 import Stage2
from isthmus.qformer.layer import Dropouts
from isthmus.records import Batch, Identity, Step, Text
from originals import Fp64, redrawn

HALF = {"vocab_size": 264, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
HALF |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ROTARY = {**HALF, "intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8}
KINDS = {
    "cohere": {**ROTARY, "logit_scale": 3.0},
    "gemma2": {**ROTARY, "final_logit_softcapping": 0.5, "attn_logit_softcapping": 0.7, "query_pre_attn_scalar": 8},
    "granite": {**ROTARY, "logits_scaling": 0.3, "embedding_multiplier": 2.0, "residual_multiplier": 0.7},
    "llama": ROTARY,
    "opt": {**HALF, "ffn_dim": 32, "word_embed_proj_dim": 16, "dropout": 0.0},
    "qwen3": ROTARY,
    "t5": {**HALF, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
}
CAPTIONS = ("a red cat", "it", "the blue boat")


def theirs(kind):
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**VISION),
        qformer_config=Blip2QFormerConfig(**QFORMER, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        text_config=AutoConfig.for_model(kind, **KINDS[kind]),
        num_query_tokens=QUERIES,
        image_token_index=IMAGE_TOKEN,
    )
    return redrawn(Blip2ForConditionalGeneration._from_config(config, attn_implementation="eager")).eval()


def padded(rows, filler):
    return torch.tensor([row + [filler] * (max(map(len, rows)) - len(row)) for row in rows])


def loss_of_theirs(model, pixels):
    """The mean over caption tokens, from their logits: soft prompt, BOS and padding have no label."""
    spelled = [[*byte_tokenizer()(caption, add_special_tokens=False).input_ids, 2] for caption in CAPTIONS]
    image = [IMAGE_TOKEN] * QUERIES
    labels = padded(spelled, -100)
    if model.language_model.config.is_encoder_decoder:
        ids = torch.tensor([[*image, 2]] * len(CAPTIONS))
        starts = model.language_model.prepare_decoder_input_ids_from_labels(labels)
        logits = model(pixel_values=pixels, input_ids=ids, decoder_input_ids=starts).logits
    else:
        rows = [[*image, 1, *row] for row in spelled]
        mask = padded([[1] * len(row) for row in rows], 0)
        logits = model(pixel_values=pixels, input_ids=padded(rows, 0), attention_mask=mask).logits[:, QUERIES:-1]
    return F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100)


def loss_of_ours(stage, patches):
    rows = len(CAPTIONS)
    batch = Batch(
        vision=patches,
        captions=CAPTIONS,
        text=Text(torch.ones(rows, 1, dtype=torch.long), torch.ones(rows, 1, dtype=torch.bool)),
        identity=Identity(torch.arange(rows), torch.arange(rows)),
        index=torch.arange(rows),
    )
    return stage(batch, Step(seed=0, epoch=0, progress=0.0))["lm"].mean()


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["fp64", "fp32"])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_of_a_whole_model_are_equal(kind, dtype, near, tmp_path):
    model = theirs(kind)
    model.save_pretrained(tmp_path)
    foreign = open_transformers(tmp_path, AutoConfig.from_pretrained)
    bridge = load_bridge(read_transformers(foreign), Dropouts(0.0, 0.0, 0.0)).to(dtype)
    model = model.to(dtype)
    pixels = torch.randn(len(CAPTIONS), 3, 28, 28, dtype=dtype, generator=torch.Generator().manual_seed(1))
    with Fp64() if dtype == torch.float64 else torch.enable_grad():
        expected = loss_of_theirs(model, pixels)
        expected.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        eye = model.vision_model
        with torch.no_grad():
            embedded = eye.embeddings(pixels)
            patches = eye.encoder(inputs_embeds=embedded).last_hidden_state
        tower = EncoderDecoderLLM if kind == "t5" else DecoderOnlyLLM
        prompt = Prompt(bos="after_soft_prompt", caption_prefix="", end="")
        options = {"prefix_lm": False} if kind == "t5" else {}
        tokenizer = byte_tokenizer(bos=kind != "t5")
        stage = Stage2(bridge, tower(model.language_model, tokenizer, prompt, address="folder:x", **options))
        found = loss_of_ours(stage.eval(), patches)
        found.backward()
    assert abs(found - expected) <= near
    names = foreign.table.keys(foreign.sizes)
    for name, parameter in bridge.named_parameters():
        wanted = gradients[names[name]].reshape(parameter.shape)
        assert (parameter.grad - wanted).abs().max() <= near * wanted.abs().max().clamp(min=1), name
    assert bridge.qformer.queries.grad.abs().max() > 1e-6

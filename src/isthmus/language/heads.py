"""Logits only where a label stands (docs/adr/0008).

Of the model types listed here the states are taken before the head, and the head, with what its type does to logits,
is called on the labels' states alone, a chunk at a time. Any other type's own forward is asked for as few logits as it
can be.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.language.labels import Labels
from isthmus.language.token_losses import losses_of_states, token_losses

COUNTS_FREELY = {"cpu"}  # transformers counts a mask of positions; on another device that waits for all before it


def label_losses(model: Any, labels: Labels, inputs: Mapping[str, Any]) -> Float[Tensor, " K"]:
    """The cross-entropy of each label by the logits that a model's forward gives for `inputs`, in fp32 at least."""
    head = HEADS.get(model.config.model_type)
    if head is None:
        return token_losses(_own_logits(model, labels, inputs), labels.ids)
    states = head.states(model, inputs).flatten(0, 1).index_select(0, labels.states())
    return losses_of_states(partial(head.logits, model), states, labels.ids, vocabulary=model.config.vocab_size)


def _own_logits(model: Any, labels: Labels, inputs: Mapping[str, Any]) -> Float[Tensor, "K vocabulary"]:
    """The logits of the states that predict labels, row after row, by the model's own forward."""
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        every: Tensor = model(**inputs).logits
        return every.flatten(0, 1).index_select(0, labels.states())
    if labels.mask.device.type in COUNTS_FREELY:
        mask = torch.cat([labels.mask.new_zeros(len(labels.mask), labels.first), labels.mask], 1)
        few: Tensor = model(**inputs, logits_to_keep=mask).logits
        return few
    positions = torch.arange(labels.mask.shape[1], device=labels.mask.device) + labels.first
    padded: Tensor = model(**inputs, logits_to_keep=positions.expand(len(labels.mask), -1)).logits
    return padded.flatten(0, 1).index_select(0, labels.cells)


def _plain(model: Any, states: Tensor) -> Tensor:
    logits: Tensor = model.lm_head(states)
    return logits


def _capped(model: Any, states: Tensor) -> Tensor:
    logits, cap = _plain(model, states), model.config.final_logit_softcapping
    if cap is None:
        return logits
    capped: Tensor = torch.tanh(logits / cap) * cap
    return capped


def _divided(model: Any, states: Tensor) -> Tensor:
    divided: Tensor = _plain(model, states) / model.config.logits_scaling
    return divided


def _multiplied(model: Any, states: Tensor) -> Tensor:
    multiplied: Tensor = _plain(model, states) * model.logit_scale
    return multiplied


def _scaled_before(model: Any, states: Tensor) -> Tensor:
    """T5 with tied embeddings scales what its head reads."""
    return _plain(model, states * model.model_dim**-0.5 if model.config.scale_decoder_outputs else states)


def _biased(model: Any, states: Tensor) -> Tensor:
    biased: Tensor = _plain(model, states) + model.final_logits_bias
    return biased


def _last_states(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    states: Tensor = model.base_model(**inputs).last_hidden_state
    return states


def _decoder_states(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """T5 with its head has no part that is both halves without the head."""
    mask = inputs["attention_mask"]
    states: Tensor = model.decoder(
        input_ids=inputs["decoder_input_ids"],
        encoder_hidden_states=model.encoder(
            inputs_embeds=inputs["inputs_embeds"], attention_mask=mask
        ).last_hidden_state,
        encoder_attention_mask=mask,
        use_cache=inputs["use_cache"],
    ).last_hidden_state
    return states


@dataclass(frozen=True)
class Head:
    """How a model type makes states (B S L) of its inputs, and logits of some of the states (K L)."""

    logits: Callable[[Any, Tensor], Tensor]
    states: Callable[[Any, Mapping[str, Any]], Tensor] = _last_states


# Each is held equal to the loss that transformers takes from `labels` (tests/parity/test_language_models.py).
HEADS: Mapping[str, Head] = {
    **dict.fromkeys(("gpt2", "llama", "mistral", "opt", "phi3", "qwen2", "qwen3", "smollm3"), Head(_plain)),
    **dict.fromkeys(("gemma2", "gemma3_text"), Head(_capped)),
    "granite": Head(_divided),
    **dict.fromkeys(("cohere", "cohere2"), Head(_multiplied)),
    "bart": Head(_biased),
    "mt5": Head(_plain, _decoder_states),
    "t5": Head(_scaled_before, _decoder_states),
}

"""The loop that writes token by token, and lets a row leave the batch as soon as its text is finished.

transformers computes every row until the longest text ends. This loop stands in the place of its greedy search, by
`generate(custom_generate=write)`: positions, masks, cache, scores and stop rules are prepared there as ever, and the
tokens are the same. Sampling is greedy search too, on scores with keyed noise (`decoding`). Beams stay there.
"""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import Cache, GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from isthmus.language.llm import Decoding


def row_by_row(decoding: Decoding) -> dict[str, Any]:
    """What `generate` is given so that finished rows leave: nothing for beams, which belong together."""
    return {"custom_generate": write} if decoding.num_beams == 1 else {}


def write(
    model: Any,
    input_ids: Int[Tensor, "B _"],
    *,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    **inputs: Any,
) -> Int[Tensor, "B T"]:
    """Write every row up to its own end, and fill the shorter ones up with padding.

    `inputs` are what transformers has prepared for the model's forward. A model that hands out no `Cache` of
    transformers keeps what it has read where no row can be taken out of it (in itself, as RecurrentGemma does): its
    rows stay until all are finished. Processes that share one model's weights would have to call it equally often, and
    do not here.
    """
    ids, rows = input_ids, torch.arange(len(input_ids), device=input_ids.device)
    ended = torch.zeros_like(rows, dtype=torch.bool)
    finished: list[tuple[Tensor, Tensor]] = []
    outputs = _read_prompt(model, ids, inputs)
    separable = any(isinstance(value, Cache) for value in outputs.values())
    with model._optimize_model_for_decode():
        while True:
            inputs = model._update_model_kwargs_for_generation(
                outputs, inputs, is_encoder_decoder=model.config.is_encoder_decoder
            )
            scores = logits_processor(ids, outputs.logits[:, -1].to(copy=True, dtype=torch.float32, device=ids.device))
            del outputs  # the prompt's logits may be large
            following = scores.argmax(dim=-1).masked_fill(ended, generation_config.pad_token_id)
            ids = torch.cat([ids, following[:, None]], dim=1)
            ended = ended | stopping_criteria(ids, None)
            staying = (~ended).nonzero()[:, 0]
            if len(staying) < len(ids) and (separable or not len(staying)):
                finished.append((rows[ended], ids[ended]))
                if not len(staying):
                    return _padded(finished, generation_config.pad_token_id)
                ids, rows, ended = ids[staying], rows[staying], ended[staying]
                inputs = {name: _select(name, value, staying) for name, value in inputs.items()}
            outputs = model(
                **model.prepare_inputs_for_generation(ids, next_sequence_length=1, **inputs), return_dict=True
            )


def _read_prompt(model: Any, ids: Int[Tensor, "B _"], inputs: dict[str, Any]) -> Any:
    """The first forward: a decoder's whole prompt but for what its cache has read, an encoder-decoder's start token."""
    length, prompt = None, inputs.get("inputs_embeds")
    if not model.config.is_encoder_decoder and prompt is not None:
        cache = inputs.get("past_key_values")
        length = prompt.shape[1] - (0 if cache is None else cache.get_seq_length())
    prepared = model.prepare_inputs_for_generation(ids, next_sequence_length=length, is_first_iteration=True, **inputs)
    inputs.pop("inputs_embeds", None)  # read once
    return model(**prepared, return_dict=True)


def _select(name: str, value: Any, rows: Int[Tensor, " R"]) -> Any:
    """Some rows of one of the forward's inputs. A cache gives them up by what it has for beams."""
    if isinstance(value, Cache):
        value.reorder_cache(rows)
        return value
    if isinstance(value, Tensor):
        # a model with positions along several axes has them before the batch
        return value.index_select(-2 if name.endswith("position_ids") else 0, rows.to(value.device))
    if name == "encoder_outputs":
        return type(value)({part: _select(part, states, rows) for part, states in value.items()})
    return value


def _padded(finished: list[tuple[Tensor, Tensor]], padding: int) -> Int[Tensor, "B T"]:
    """Rows in their old order; the last to finish are the longest."""
    ids = finished[-1][1].new_full((sum(len(rows) for rows, _ in finished), finished[-1][1].shape[1]), padding)
    for rows, written in finished:
        ids[rows, : written.shape[1]] = written
    return ids

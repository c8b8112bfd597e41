"""What `Decoding` asks for, in the words of transformers' generation."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from isthmus.language.llm import Decoding
from isthmus.randomness import gumbel


class KeyedGumbel:
    """Turn greedy search into sampling: the arg-max of log-weight plus Gumbel noise samples by weight.

    The noise is keyed by (seed, position, token), the same in every row, so that a row's text does not depend on
    the batch that it stands in.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, input_ids: Int[Tensor, "B T"], scores: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
        """Add the noise of position T to every row's scores."""
        tokens = torch.arange(scores.shape[-1], device=scores.device)
        return scores + gumbel(self.seed, input_ids.shape[-1], tokens)


def logits_processors(decoding: Decoding, *, skip: int = 0) -> LogitsProcessorList:
    """What changes the scores of the next token, given the tokens written so far, of which `skip` are no text.

    The repetition penalty stands here, not in the generation settings: there transformers would count a row's left
    padding as written tokens.
    """
    chosen = LogitsProcessorList()
    if decoding.repetition_penalty != 1:
        chosen.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty, skip))
    if decoding.temperature > 0:
        chosen.append(TemperatureLogitsWarper(decoding.temperature))
        if decoding.top_p < 1:
            chosen.append(TopPLogitsWarper(decoding.top_p))
        chosen.append(KeyedGumbel(decoding.seed))
    return chosen


def generation_config(decoding: Decoding, *, stops: Iterable[int], padding: int) -> GenerationConfig:
    """Greedy or beam search up to a limit or a stop token; the model's own defaults have no say."""
    beams = {"num_beams": decoding.num_beams, "length_penalty": decoding.length_penalty}
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        min_new_tokens=decoding.min_new_tokens or None,
        do_sample=False,
        eos_token_id=sorted(set(stops)) or None,
        pad_token_id=padding,
        **(beams if decoding.num_beams > 1 else {}),
    )

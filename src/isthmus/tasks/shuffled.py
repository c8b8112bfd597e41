"""The diagnostic that matters (DESIGN 5.15): stage-2 loss with the right pictures beside shuffled ones.

If the two are equal, the language model is not looking at the picture.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from isthmus.data.text import normalise
from isthmus.errors import DataError
from isthmus.models.stage2 import Stage2
from isthmus.randomness import hash64
from isthmus.records import Batch

_BATCH = 48


def other_names(captions: Sequence[str], *, seed: int) -> Int[Tensor, " N"]:
    """A permutation that gives every row a picture of another name.

    Case and white space make no other name. Rows in a keyed order of names are shifted by the size of the largest
    group of one name, which moves every row out of its group. Raises `DataError` when one name has more than half of
    the rows: then there is none.
    """
    names = [normalise(caption).lower() for caption in captions]
    groups = Counter(names)
    largest = max(groups.values())
    if 2 * largest > len(captions):
        raise DataError(
            f"{largest} of {len(captions)} evaluation rows have the same caption, so pictures cannot be shuffled onto "
            "other names; evaluate on rows with more different captions"
        )
    key = {name: int(hash64(seed, number)) for number, name in enumerate(sorted(groups))}
    order = torch.tensor(sorted(range(len(captions)), key=lambda row: (key[names[row]], row)))
    partner = torch.empty_like(order)
    partner[order] = order.roll(-largest)
    return partner


@torch.inference_mode()
def right_and_shuffled(stage: Stage2, batches: Iterable[Batch], device: torch.device, *, seed: int) -> dict[str, float]:
    """Loss per caption token (nats) with each row's own picture and with one of another name."""
    prompts: list[Tensor] = []
    captions: list[str] = []
    for batch in batches:
        prompts.append(stage.bridge.soft_prompt(batch.vision.to(device)))
        captions.extend(batch.captions)
    soft_prompt = torch.cat(prompts)
    partner = other_names(captions, seed=seed).to(device)
    right, shuffled = (_loss(stage, prompt, captions) for prompt in (soft_prompt, soft_prompt[partner]))
    return {"right": right, "shuffled": shuffled, "gap": shuffled - right}


def _loss(stage: Stage2, soft_prompt: Tensor, captions: Sequence[str]) -> float:
    total, weight = 0.0, 0.0
    for start in range(0, len(captions), _BATCH):
        target = stage.llm.tokenize(captions[start : start + _BATCH]).to(soft_prompt.device)
        term = stage.llm.loss(soft_prompt[start : start + _BATCH], target)
        total, weight = total + float(term.sum), weight + float(term.weight)
    return total / max(1.0, weight)

"""The diagnostic that matters (DESIGN 5.15): stage-2 loss with the right pictures beside shuffled ones.

If the two are equal, the language model is not looking at the picture.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isthmus.data.text import normalise
from isthmus.data.things import joined
from isthmus.errors import DataError
from isthmus.models.stage2 import Stage2
from isthmus.randomness import hash64
from isthmus.records import Batch, Example, Source

_BATCH = 48


def other_things(examples: Sequence[Example], *, seed: int, captions: bool = True) -> Int[Tensor, " I"]:
    """A permutation that gives every picture one of another thing.

    Pictures are the same thing when they share `image_id` or, with `captions`, any caption, or are joined by others
    that do; case and white space make no other caption. Pictures in a keyed order of things are shifted by the size of
    the largest thing, which moves every one out of its own. Raises `DataError` when one thing has more than half of the
    pictures: then there is none.
    """
    things = _by_caption(examples) if captions else [example.image_id for example in examples]
    sizes = Counter(things)
    largest = max(sizes.values())
    if 2 * largest > len(things):
        raise DataError(
            f"{largest} of {len(things)} evaluation pictures are the same thing, by image_id"
            f"{' or caption' if captions else ''}, so pictures cannot be shuffled onto other things; evaluate on more "
            "different pictures"
        )
    key = {thing: int(hash64(seed, number)) for number, thing in enumerate(sorted(sizes))}
    order = torch.tensor(sorted(range(len(things)), key=lambda row: (key[things[row]], row)))
    partner = torch.empty_like(order)
    partner[order] = order.roll(-largest)
    return partner


def _by_caption(examples: Sequence[Example]) -> list[str]:
    """The thing of each picture, which `image_id` and captions join, named by a caption."""
    captions = [[normalise(caption).lower() for caption in example.captions] for example in examples]
    marks = [[("image", e.image_id), *(("caption", c) for c in own)] for e, own in zip(examples, captions, strict=True)]
    return joined([own[0] for own in captions], marks)


@torch.inference_mode()
def right_and_shuffled(
    stage: Stage2, batches: Iterable[Batch], source: Source, device: torch.device, *, seed: int
) -> dict[str, float]:
    """Loss per caption token (nats) over every caption: with its own picture, and with one of another thing."""
    prompts: list[Tensor] = []
    examples: list[Example] = []
    for batch in batches:
        prompts.append(stage.bridge.soft_prompt(batch.vision.to(device)))
        examples.extend(source[index] for index in batch.index.tolist())
    soft_prompt = torch.cat(prompts)
    partner = other_things(examples, seed=seed).to(device)
    captions = [[normalise(caption) for caption in example.captions] for example in examples]
    right, shuffled = (_loss(stage, prompt, captions) for prompt in (soft_prompt, soft_prompt[partner]))
    return {"right": right, "shuffled": shuffled, "gap": shuffled - right}


def _loss(stage: Stage2, soft_prompt: Float[Tensor, "I Q L"], captions: Sequence[Sequence[str]]) -> float:
    """Mean loss of a token over all captions, each after its picture's soft prompt."""
    texts = [text for own in captions for text in own]
    owner = torch.tensor([picture for picture, own in enumerate(captions) for _ in own], device=soft_prompt.device)
    total, weight = 0.0, 0.0
    for start in range(0, len(texts), _BATCH):
        piece = slice(start, start + _BATCH)
        target = stage.llm.tokenize(texts[piece]).to(soft_prompt.device)
        term = stage.llm.loss(soft_prompt[owner[piece]], target)
        total, weight = total + float(term.sum), weight + float(term.weight)
    return total / max(1.0, weight)

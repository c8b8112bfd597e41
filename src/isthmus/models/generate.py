"""Captions and answers: through the frozen language model (stage 2), or by the Q-Former itself (ITG, stage 1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isthmus.errors import ConfigError
from isthmus.language.decoding import logits_processors
from isthmus.language.llm import Decoding, FrozenLLM
from isthmus.models.bridge import Bridge
from isthmus.qformer.memory import Memory
from isthmus.qformer.tokenizer import QFormerTokenizer
from isthmus.records import Text


@torch.inference_mode()
def caption_by_llm(
    bridge: Bridge,
    llm: FrozenLLM,
    patches: Float[Tensor, "B P V"],
    decoding: Decoding,
    *,
    prompts: Sequence[str] | None = None,
) -> list[str]:
    """Let the language model go on from each image's soft prompt, until its end mark (BLIP-2 §3.3).

    `prompts[b]` stands after the soft prompt of image b in place of the trained text there.
    """
    return llm.generate(bridge.soft_prompt(patches), decoding, prompts=prompts)


@dataclass(frozen=True)
class Questions:
    """R questions: their words, and what the Q-Former reads of them."""

    words: Sequence[str]
    instruction: Text

    def select(self, index: Int[Tensor, " S"]) -> "Questions":
        """Take questions by index, in its order, repeats allowed."""
        return Questions([self.words[row] for row in index.tolist()], self.instruction.select(index).trimmed())


@torch.inference_mode()
def answer_by_llm(
    bridge: Bridge, llm: FrozenLLM, memory: Memory, decoding: Decoding, *, questions: Questions
) -> list[str]:
    """Let the language model answer question r about image r of a memory, which the queries look at with it in mind.

    Source: InstructBLIP (arXiv 2305.06500).
    """
    instruction = questions.instruction.to(bridge.qformer.queries.device)
    soft_prompt = bridge.project(bridge.qformer.fuse(instruction, memory)).to(next(llm.parameters()).device)
    return llm.generate(soft_prompt, decoding, prompts=list(map(llm.prompt.asking, questions.words)))


@torch.inference_mode()
def caption_by_qformer(
    bridge: Bridge, tokenizer: QFormerTokenizer, patches: Float[Tensor, "B P V"], decoding: Decoding
) -> list[str]:
    """Let the Q-Former write under the multimodal causal mask, until every row has its [SEP] (BLIP-2 §3.2, ITG).

    Raises `ConfigError` for beams: the Q-Former writes greedily or samples.
    """
    if decoding.num_beams > 1:
        raise ConfigError(
            f"the Q-Former writes without beams, and num_beams is {decoding.num_beams}: leave it at 1, or caption with "
            "the folder of a stage-2 run."
        )
    processors = logits_processors(decoding)
    prefix = bridge.qformer.encode_image(patches).prefix
    ids = torch.full((len(patches), 1), tokenizer.dec, device=patches.device)
    ended = torch.zeros(len(patches), dtype=torch.bool, device=patches.device)
    for position in range(min(decoding.max_new_tokens, bridge.sizes.positions)):
        states = bridge.qformer.decode(Text(ids, torch.ones_like(ids, dtype=torch.bool)), prefix)
        scores = bridge.qformer.predict(states[:, -1]).float()
        if position < decoding.min_new_tokens:
            scores[:, tokenizer.sep] = -torch.inf
        following = torch.where(ended, tokenizer.sep, processors(ids[:, 1:], scores).argmax(dim=-1))
        ids = torch.cat([ids, following[:, None]], dim=1)
        ended = ended | (following == tokenizer.sep)
        if bool(ended.all()):
            break
    return [tokenizer.decode(row) for row in ids]

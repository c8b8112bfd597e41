"""Greedy captions: through the frozen language model (stage 2), or by the Q-Former itself (ITG, stage 1)."""

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.language.llm import FrozenLLM
from isthmus.models.bridge import Bridge
from isthmus.qformer.tokenizer import QFormerTokenizer
from isthmus.records import Text


@torch.inference_mode()
def caption_by_llm(
    bridge: Bridge, llm: FrozenLLM, patches: Float[Tensor, "B P V"], *, max_new_tokens: int
) -> list[str]:
    """Let the language model go on from each image's soft prompt, until its end mark (BLIP-2 §3.3)."""
    return llm.generate(bridge.soft_prompt(patches), max_new_tokens=max_new_tokens)


@torch.inference_mode()
def caption_by_qformer(
    bridge: Bridge, tokenizer: QFormerTokenizer, patches: Float[Tensor, "B P V"], *, max_new_tokens: int
) -> list[str]:
    """Let the Q-Former write under the multimodal causal mask, until every row has its [SEP] (BLIP-2 §3.2, ITG)."""
    prefix = bridge.qformer.encode_image(patches).prefix
    ids = torch.full((len(patches), 1), tokenizer.dec, device=patches.device)
    ended = torch.zeros(len(patches), dtype=torch.bool, device=patches.device)
    for _ in range(max_new_tokens):
        states = bridge.qformer.decode(Text(ids, torch.ones_like(ids, dtype=torch.bool)), prefix)
        following = bridge.qformer.predict(states[:, -1]).argmax(dim=-1)
        following = torch.where(ended, tokenizer.sep, following)
        ids = torch.cat([ids, following[:, None]], dim=1)
        ended = ended | (following == tokenizer.sep)
        if bool(ended.all()):
            break
    return [tokenizer.decode(row) for row in ids]

"""Stage 2: the bridge learns through a frozen language model's loss on the caption (BLIP-2 §3.3)."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from isthmus.language.llm import FrozenLLM
from isthmus.models.bridge import Bridge
from isthmus.records import Batch, Losses, Step


class Stage2(nn.Module):
    """Queries read the image without seeing text; one linear layer makes them the language model's soft prompt."""

    def __init__(self, bridge: Bridge, llm: FrozenLLM) -> None:
        super().__init__()
        self.bridge = bridge
        self.llm = llm

    def forward(self, batch: Batch, step: Step) -> Losses:
        """Compute the language-modelling loss of the captions, before division; nothing in it is random."""
        target = self.llm.tokenize(batch.captions).to(batch.vision.device)
        return Losses({"lm": self.llm.loss(self.bridge.soft_prompt(batch.vision), target)})

    def count(self, batch: Batch) -> Mapping[str, Float[Tensor, ""]]:
        """The weight that `forward` will return, known before it: caption tokens with the end mark."""
        return {"lm": self.llm.tokenize(batch.captions).mask.sum().float().to(batch.vision.device)}

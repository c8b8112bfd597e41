"""Stage 2: the bridge learns through a frozen language model's loss on the caption (BLIP-2 §3.3)."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from isthmus.fingerprint import text_identity
from isthmus.language.llm import FrozenLLM, Target
from isthmus.models.bridge import Bridge
from isthmus.randomness import uniform
from isthmus.records import Batch, Losses, Step

_SPLIT = text_identity("prefix split")


class Stage2(nn.Module):
    """Queries read the image without seeing text; one linear layer makes them the language model's soft prompt."""

    def __init__(self, bridge: Bridge, llm: FrozenLLM) -> None:
        super().__init__()
        self.bridge = bridge
        self.llm = llm

    def forward(self, batch: Batch, step: Step) -> Losses:
        """Compute the language-modelling loss of the captions, before division."""
        target = self._target(batch, step).to(batch.vision.device)
        return Losses({"lm": self.llm.loss(self.bridge.soft_prompt(batch.vision), target)})

    def count(self, batch: Batch, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """The weight that `forward` will return, known before it: label tokens with the end mark."""
        return {"lm": self._target(batch, step).mask.sum().float().to(batch.vision.device)}

    def _target(self, batch: Batch, step: Step) -> Target:
        """The captions as labels; where they are split, by a draw keyed by (seed, epoch, index)."""
        if not self.llm.splits_captions:
            return self.llm.tokenize(batch.captions)
        draws = uniform(step.seed, step.epoch, _SPLIT, batch.index).tolist()
        return self.llm.tokenize(batch.captions, draws)

"""Stage 2: the bridge learns through a frozen language model's loss on the caption (BLIP-2 §3.3).

Where a batch has questions, the bridge looks at each picture with its question in mind, the language model reads it
after the soft prompt, and the loss is on the answer (InstructBLIP).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn

from isthmus.fingerprint import text_identity
from isthmus.language.llm import FrozenLLM, Target
from isthmus.models.bridge import Bridge
from isthmus.randomness import uniform
from isthmus.records import Batch, Losses, Step

_SPLIT = text_identity("prefix split")


class Stage2(nn.Module):
    """Queries read the image, and the question if there is one; one linear layer makes them the soft prompt."""

    def __init__(self, bridge: Bridge, llm: FrozenLLM) -> None:
        super().__init__()
        self.bridge = bridge
        self.llm = llm

    def forward(self, batch: Batch, step: Step) -> Losses:
        """Compute the language-modelling loss of the captions, or of the answers, before division."""
        target = self._target(batch, step).to(batch.vision.device)
        states = self.bridge.query_states(batch.vision, batch.instruction)
        return Losses({"lm": self.llm.loss(self.bridge.project(states), target)})

    def count(self, batch: Batch, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """The weight that `forward` will return, known before it: label tokens with the end mark."""
        return {"lm": self._target(batch, step).mask.sum().float().to(batch.vision.device)}

    def answers(self, answers: Sequence[str], questions: Sequence[str]) -> Target:
        """Answers as labels, each after its question, as the prompt words it."""
        return self.llm.tokenize(answers, prompts=list(map(self.llm.prompt.asking, questions)))

    def _target(self, batch: Batch, step: Step) -> Target:
        """The labels of the rows that count."""
        target = self._texts(batch, step)
        if batch.counted is None:
            return target
        return replace(target, mask=target.mask & batch.counted.cpu()[:, None], count=-1)

    def _texts(self, batch: Batch, step: Step) -> Target:
        """The captions as labels; where they are split, by a draw keyed by (seed, epoch, index); answers never are."""
        if batch.questions is not None:
            return self.answers(batch.captions, batch.questions)
        if not self.llm.splits_captions:
            return self.llm.tokenize(batch.captions)
        draws = uniform(step.seed, step.epoch, _SPLIT, batch.index).tolist()
        return self.llm.tokenize(batch.captions, draws)

"""What a bridge is scored by: retrieval for stage 1, loss and greedy captions for stage 2."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from isthmus.build.data import Looks, held_out_loader
from isthmus.build.precision import Compute
from isthmus.data.loader import Look
from isthmus.language.llm import Decoding
from isthmus.models.bridge import Bridge
from isthmus.models.generate import caption_by_llm, caption_by_qformer
from isthmus.models.stage1 import Stage1
from isthmus.models.stage2 import Stage2
from isthmus.qformer.tokenizer import QFormerTokenizer
from isthmus.records import Batch, Source
from isthmus.tasks.caption import Captioner, caption_all, exact_match
from isthmus.tasks.retrieval import Embedded, embed, retrieval
from isthmus.tasks.shuffled import right_and_shuffled

_DECODING = Decoding(max_new_tokens=16)
_BATCH = 64


@dataclass(frozen=True)
class Evaluation:
    """The scorer of one bridge on one source."""

    source: Source
    looks: Looks
    look: Look
    tokenizer: QFormerTokenizer
    compute: Compute
    seed: int

    def batches(self) -> Iterable[Batch]:
        """Every row once, centre view."""
        rows = held_out_loader(self.source, self.look, tokenize=self.tokenizer, batch_size=_BATCH)
        return self.looks.patches(rows)

    def score(self, stage: Stage1 | Stage2) -> dict[str, Any]:
        """Whatever this stage is scored by."""
        stage.eval()
        with self.compute.autocast():
            return self.stage2(stage) if isinstance(stage, Stage2) else self.stage1(stage.bridge)

    def stage1(self, bridge: Bridge) -> dict[str, Any]:
        """Recall both ways by ITC (per cent), and the Q-Former's own greedy captions (ITG)."""
        captioner = partial(caption_by_qformer, bridge, self.tokenizer, decoding=_DECODING)
        return {**retrieval(self.embed(bridge)), **self._captions(captioner)}

    def embed(self, bridge: Bridge) -> Embedded:
        """Every picture and text in ITC's shared space."""
        return embed(bridge, self.batches(), self.compute.device)

    def stage2(self, stage: Stage2) -> dict[str, Any]:
        """Loss with right and shuffled pictures (nats per token), and greedy captions with their exact matches."""
        loss = right_and_shuffled(stage, self.batches(), self.compute.device, seed=self.seed)
        captioner = partial(caption_by_llm, stage.bridge, stage.llm, decoding=_DECODING)
        return {"loss": loss, **self._captions(captioner)}

    def _captions(self, captioner: Captioner) -> dict[str, Any]:
        pairs = caption_all(captioner, self.batches(), self.compute.device)
        return {"exact_match": exact_match(pairs), "pictures": len(pairs), "captions": pairs}

"""What a bridge is scored by: retrieval for stage 1, loss for stage 2, captions for both."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from isthmus.build.chosen_ranking import ChosenRanking
from isthmus.build.data import Looks, held_out_loader
from isthmus.build.precision import Compute
from isthmus.config.run import RunConfig
from isthmus.data.loader import Look
from isthmus.language.llm import Decoding
from isthmus.models.bridge import Bridge
from isthmus.models.generate import caption_by_llm, caption_by_qformer
from isthmus.models.stage1 import Stage1
from isthmus.models.stage2 import Stage2
from isthmus.qformer.tokenizer import QFormerTokenizer
from isthmus.records import Batch, Source
from isthmus.tasks.asked import Asked, answer_all, answers_right_and_shuffled
from isthmus.tasks.caption import Caption, PatchCaptioner, caption_all
from isthmus.tasks.coco import Metric
from isthmus.tasks.figures import caption_figures, coco_figures, itc_figures, reranked_figures, weight_grid
from isthmus.tasks.kept import Kept
from isthmus.tasks.rerank import choose_weight, match_shortlists
from isthmus.tasks.retrieval import Embedded, embed
from isthmus.tasks.shuffled import right_and_shuffled

_BATCH = 64


def longest_trained(config: RunConfig) -> Decoding:
    """Greedy captions of up to as many tokens as were trained: a shorter limit makes long references unreachable."""
    return Decoding(max_new_tokens=config.bridge.max_tokens if config.llm is None else config.llm.max_tokens)


@dataclass(frozen=True)
class Evaluation:
    """The scorer of one bridge on one source.

    Without a `chosen` re-ranking ITM looks at no shortlist: cheap enough to be repeated while training.
    """

    source: Source
    looks: Looks
    look: Look
    tokenizer: QFormerTokenizer
    compute: Compute
    seed: int
    chosen: ChosenRanking | None = None
    decoding: Decoding = field(default_factory=Decoding)

    def batches(self) -> Iterable[Batch]:
        """Every row once, centre view."""
        rows = held_out_loader(self.source, self.look, tokenize=self.tokenizer, batch_size=_BATCH)
        return self.looks.patches(rows)

    def score(
        self, stage: Stage1 | Stage2, *, choose_on: str | None = None, metrics: Sequence[Metric] = ()
    ) -> dict[str, Any]:
        """Whatever this stage is scored by, captions by some of COCO's metrics too.

        `choose_on` is a name for these pictures; with it, stage 1's weight of re-ranking is chosen on them.
        """
        stage.eval()
        batches = Kept(self.batches())
        with self.compute.autocast():
            if isinstance(stage, Stage2) and self.source[0].questions:
                return self._answers(stage, batches, metrics)
            if isinstance(stage, Stage2):
                loss = right_and_shuffled(stage, batches, self.source, self.compute.device, seed=self.seed)
                captioner = partial(caption_by_llm, stage.bridge, stage.llm, decoding=self.decoding)
                return {"loss": loss, **self._captions(captioner, batches, metrics)}
            embedded = self.embed(stage.bridge, batches)
            captioner = partial(caption_by_qformer, stage.bridge, self.tokenizer, decoding=self.decoding)
            figures = _joined(itc_figures(embedded, seed=self.seed), self._captions(captioner, batches, metrics))
            if self.chosen is None and choose_on is None:
                return figures
            return _joined(figures, self._reranked(stage.bridge, batches, embedded, choose_on))

    def embed(self, bridge: Bridge, batches: Iterable[Batch] | None = None) -> Embedded:
        """Every picture and text in ITC's shared space."""
        rows = self.batches() if batches is None else batches
        return embed(bridge, rows, self.source, tokenize=self.tokenizer, device=self.compute.device)

    def _reranked(
        self, bridge: Bridge, batches: Iterable[Batch], embedded: Embedded, choose_on: str | None
    ) -> dict[str, Any]:
        """Retrieval after ITM's look at the shortlists, and by which ranking."""
        chosen = self.chosen or ChosenRanking()
        patches = (batch.vision.to(self.compute.device) for batch in batches)
        shortlists = match_shortlists(bridge, patches, embedded, size=chosen.ranking.shortlist)
        grid = None
        if choose_on is not None:
            grid = weight_grid(embedded, shortlists, chosen.ranking)
            weight = choose_weight({weight: both["text_to_image"] for weight, both in grid.items()})
            chosen = ChosenRanking(replace(chosen.ranking, weight=weight, rule="log_odds"), choose_on)
        ranking = chosen.as_json()
        if grid is not None:
            ranking["grid"] = [{"weight": weight, **both} for weight, both in grid.items()]
        return {**reranked_figures(embedded, shortlists, chosen.ranking, seed=self.seed), "ranking": ranking}

    def _captions(
        self, captioner: PatchCaptioner, batches: Iterable[Batch], metrics: Sequence[Metric]
    ) -> dict[str, Any]:
        captions = caption_all(captioner, batches, self.source, device=self.compute.device)
        return self._matches(captions, metrics)

    def _answers(self, stage: Stage2, batches: Iterable[Batch], metrics: Sequence[Metric]) -> dict[str, Any]:
        """Losses and matches of the answers to every question."""
        rows = Asked(batches, self.source, self.tokenizer, self.compute.device)
        loss = answers_right_and_shuffled(stage, rows, seed=self.seed)
        answers = answer_all(stage, rows, self.decoding)
        counts = {"pictures": len(self.source), "questions": len(answers)}
        return {"loss": loss, **self._matches(answers, metrics), **counts}

    def _matches(self, captions: Sequence[Caption], metrics: Sequence[Metric]) -> dict[str, Any]:
        figures = caption_figures(captions, seed=self.seed)
        return {**figures, "coco": coco_figures(captions, metrics)} if metrics else figures


def _joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of two kinds in one record, their intervals together."""
    return {**first, **second, "confidence": {**first["confidence"], **second["confidence"]}}

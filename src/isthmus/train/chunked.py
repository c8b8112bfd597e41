"""A contrastive batch beyond memory: the micro-batches of a step, on all ranks, are each other's negatives.

ITC needs the embeddings of all rows at once, and nothing else of them, so a step goes over its rows twice (Gao et al.
2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"). The first pass keeps the embeddings
alone. ITC of all rows is then computed, a block of rows at a time, with its gradient with respect to every embedding,
and ITM's negatives are drawn from all rows. The second pass computes each micro-batch again, with the same dropout, and
hands that gradient on; ITG and ITM are done there. It is the gradient of one batch of all rows (docs/adr/0012).

Patches are held for one micro-batch at a time, and read again from the feature store by the keys that rows carry.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from isthmus import distributed
from isthmus.models.contrast import Contrast, Embeddings, Given, Others, Pairs, Rows
from isthmus.models.stage1 import Stage1
from isthmus.objectives.itm import Anchors
from isthmus.objectives.negatives import Negatives
from isthmus.records import Batch, Identity, Step, Term, Text, mean_over
from isthmus.train.beginning import Plain, Seed, Stage, Take

Reread = Callable[[Int[Tensor, " R"], Int[Tensor, " R"]], Float[Tensor, "R P V"]]
"""Index and epoch of rows, as their batch has them, to their patches once more; all on the CPU."""

SCORES = 2**24
"""Cosines of queries with texts that a block makes at a time, in each direction: it has as many rows as come to that,
and one at least."""


def taking(stage: Stage, reread: Reread | None, autocast: Callable[[], AbstractContextManager[Any]]) -> Take:
    """How a step's micro-batches are taken: as one contrastive batch where their patches can be read again."""
    return Plain(stage) if reread is None else TwoPass(cast(Stage1, stage), reread, autocast)


class TwoPass:
    """Takes micro-batches of stage 1 that are one contrastive batch."""

    def __init__(self, stage: Stage1, reread: Reread, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        """`stage` is the bare one; `autocast` gives the context in which the wrapped one computes."""
        self._stage, self._reread, self._autocast = stage, reread, autocast

    def __call__(self, batches: Iterable[Batch], seed: Seed) -> "Seen":
        """Take the first pass; `seed(number)` sets the dropout of a micro-batch as the second pass will find it.

        Graphs are made and let go of: without one, attention takes another kernel, which draws other dropout.
        """
        held, own = [], []
        for number, batch in enumerate(batches):
            seed(number)
            with self._autocast():
                own.append(Embeddings(*(rows.detach() for rows in self._stage.encode(batch)[1].both)))
            held.append(replace(batch, vision=batch.vision.new_empty(len(batch), 0)))
        images, texts = (torch.cat(rows) for rows in zip(*(one.both for one in own), strict=True))
        return Seen(self._stage, self._reread, held, Embeddings(images, texts))


@dataclass
class Seen:
    """This rank's micro-batches after the first pass: without their patches, and the embeddings of them all."""

    stage: Stage1
    reread: Reread
    batches: list[Batch]
    own: Embeddings

    def begin(self, step: Step) -> "Joined":
        """Compare all ranks' rows."""
        return Joined(self.stage, self.reread, self.batches, self.own, step=step)


class _Places:
    """Where rows stand among everyone's: micro-batch after micro-batch, in rank order within each.

    So they would stand in one batch of one process. `own` are this rank's of each micro-batch, `everyone` all ranks'.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        """`sizes` are the rows of each micro-batch, the same on every rank."""
        world, rank, starts = distributed.world_size(), distributed.rank(), [0, *accumulate(sizes)]
        first = [world * start for start in starts]
        self.everyone = [slice(*both) for both in pairwise(first)]
        self.own = [slice(at + rank * size, at + (rank + 1) * size) for at, size in zip(first, sizes, strict=False)]
        ranks = [starts[-1] * other for other in range(world)]  # where each begins in what is gathered
        spans = zip(starts, sizes, strict=False)
        self._order = [at + start + row for start, size in spans for at in ranks for row in range(size)]

    def gather(self, rows: Shaped[Tensor, "B ..."]) -> Shaped[Tensor, "N ..."]:
        """Everyone's, of this rank's rows of all micro-batches; no gradient."""
        gathered = distributed.gather(rows, exact=False)
        if distributed.world_size() == 1:
            return gathered
        return gathered.index_select(0, torch.tensor(self._order, device=rows.device))


class Joined:
    """A contrastive batch between its two passes; `counts` are the weights of each micro-batch's losses."""

    def __init__(self, stage: Stage1, reread: Reread, batches: Sequence[Batch], own: Embeddings, *, step: Step) -> None:
        """`batches` are this rank's micro-batches, whose patches are not looked at; `own` the embeddings of all."""
        self._reread, self._batches, self._step = reread, batches, step
        self._places = _Places([len(batch) for batch in batches])
        numbers = self._places.gather(torch.cat([_numbers(batch) for batch in batches]))
        image, caption, counted, *keys = numbers.unbind(1)
        self._keys = torch.stack(keys).cpu()  # index and epoch of everyone's rows, and how long their texts are
        self._texts = _gather_texts(batches, self._places)
        counts = any(batch.counted is not None for batch in batches)
        everyone = Rows(Identity(image, caption), keys[0], counted.bool() if counts else None)
        compared = _Comparison(stage, everyone, Embeddings(*map(self._places.gather, own.both)), step)
        spans, number = self._places.own, everyone.numbers()
        self._anchors = [stage.anchors(batch, number[own]) for batch, own in zip(batches, spans, strict=True)]
        self._parts = [compared.part(own).at(anchors) for own, anchors in zip(spans, self._anchors, strict=True)]
        self._gradient, self._exact = compared.gradient, compared.exact
        chosen = torch.cat([torch.stack([part.images.index, part.captions.index]) for part in self._parts], dim=1)
        self._chosen = torch.split(chosen.cpu(), [len(anchors.index) for anchors in self._anchors], dim=1)
        self.counts: Sequence[Mapping[str, Tensor]] = [
            stage.weigh(batch, anchors.weight.sum() + part.images.weight.sum() + part.captions.weight.sum())
            for batch, anchors, part in zip(batches, self._anchors, self._parts, strict=True)
        ]

    def given(self, weights: Mapping[str, Float[Tensor, ""]]) -> Iterator[tuple[Batch, Step, Given]]:
        """Each micro-batch in turn, its patches read again, with what the stage must be told of the whole.

        `weights` are what this rank's terms are divided by.
        """
        for number, batch in enumerate(self._batches):
            vision, others = self._read(number)
            part, gradient = self._parts[number], self._gradient_of(number, weights["itc"])
            yield replace(batch, vision=vision), self._step, Given(part.term, gradient, part.of_temperature, others)

    def _gradient_of(self, number: int, weight: Float[Tensor, ""]) -> Embeddings:
        """The gradient with respect to a micro-batch's embeddings: of this rank's loss, or of the sum of all ranks'.

        Each rank divides its loss by a weight that may be its own (`Plan.per_rank_mean`), and this is multiplied by
        this rank's in the end, since the loop will divide by it.
        """
        own, all_ranks = self._places.own[number], self._places.everyone[number]
        if distributed.world_size() == 1 or not self._exact:
            return Embeddings(*(found[own] for found in self._gradient.both))
        weight = weight.to(self._gradient.image.dtype)
        share = mean_over(torch.ones_like(weight), weight)
        totals = [distributed.reduce_sum(found[all_ranks] * share) for found in self._gradient.both]
        here = slice(own.start - all_ranks.start, own.stop - all_ranks.start)
        return Embeddings(*(total[here] * weight for total in totals))

    def _read(self, number: int) -> tuple[Float[Tensor, "B P V"], Others]:
        """A micro-batch's patches, and a picture and a text for each of its anchors, from anywhere in the whole."""
        keys, texts, part, anchors = self._keys, self._texts, self._parts[number], self._anchors[number]
        own = torch.arange(keys.shape[1])[self._places.own[number]]
        seen, read = (torch.cat([own, chosen]) for chosen in self._chosen[number])
        patches = self._reread(keys[0, seen], keys[1, seen]).to(texts.ids.device, non_blocking=True)
        width, read = int(keys[2, read].max()), read.to(texts.ids.device)
        second = len(own) + torch.arange(len(anchors.index), device=texts.ids.device)
        others = Others(
            anchors,
            patches[len(own) :],
            Text(texts.ids[read, :width], texts.mask[read, :width]),
            Negatives(second, part.images.weight),
            Negatives(second, part.captions.weight),
        )
        return patches[: len(own)], others


@dataclass(frozen=True)
class _Part:
    """ITC of some of this rank's rows, without a graph, and the negatives drawn for them from everyone's."""

    term: Term
    of_temperature: Float[Tensor, ""]
    images: Negatives
    captions: Negatives

    def at(self, anchors: Anchors) -> "_Part":
        """The same ITC, and the negatives of these anchors alone."""
        return replace(self, images=self.images.at(anchors), captions=self.captions.at(anchors))

    @staticmethod
    def joined(parts: "Sequence[_Part]") -> "_Part":
        """That of a micro-batch, of its blocks."""
        images, captions = (
            Negatives(torch.cat([each.index for each in drawn]), torch.cat([each.weight for each in drawn]))
            for drawn in ([part.images for part in parts], [part.captions for part in parts])
        )
        numbers = [torch.stack([part.term.sum, part.term.weight, part.of_temperature]) for part in parts]
        total, weight, of_temperature = torch.stack(numbers).sum(0)
        return _Part(Term(total, weight), of_temperature, images, captions)


class _Comparison:
    """ITC of this rank's rows against everyone's, in blocks; `gradient`, by everyone's embeddings, grows with each."""

    def __init__(self, stage: Stage1, rows: Rows, embeddings: Embeddings, step: Step) -> None:
        """`rows` and `embeddings` are everyone's."""
        self._stage, self._rows, self._embeddings, self._step = stage, rows, embeddings, step
        self._temperature = stage.temperature()  # in its range, before anything is divided by it
        self.exact = stage.options.gather == "exact"
        self.gradient = Embeddings(*map(torch.zeros_like, embeddings.both))
        for known in embeddings.both:
            known.requires_grad_(self.exact)

    def part(self, own: slice) -> _Part:
        """A micro-batch's."""
        everyone, queries = self._embeddings.image.shape[:2]
        size = max(1, SCORES // (everyone * queries))
        starts = range(own.start, own.stop, size)
        return _Part.joined([self._block(slice(start, min(start + size, own.stop))) for start in starts])

    def _block(self, rows: slice) -> _Part:
        own, policy = self._rows.select(rows), self._stage.options.identity
        pairs = Pairs.between(own, self._rows, offset=rows.start, policy=policy)
        anchors = Embeddings(*(known[rows].detach().requires_grad_() for known in self._embeddings.both))
        contrast = Contrast.between(anchors, self._embeddings)
        term = self._stage.itc(contrast, pairs)
        candidates = self._embeddings.both if self.exact else ()
        of_temperature, *found = torch.autograd.grad(term.sum, [self._temperature, *anchors.both, *candidates])
        for total, of_anchors in zip(self.gradient.both, found[:2], strict=True):
            total[rows] += of_anchors
        for total, of_candidates in zip(self.gradient.both, found[2:], strict=False):
            total += of_candidates
        images, captions = self._stage.negatives(contrast, pairs, self._step)
        return _Part(Term(term.sum.detach(), term.weight), of_temperature, images, captions)


def _numbers(batch: Batch) -> Int[Tensor, "B 6"]:
    """What is known of each row in whole numbers: what it is, whether it counts, and its keys."""
    assert batch.epoch is not None  # loaders know it
    counted = torch.ones_like(batch.index) if batch.counted is None else batch.counted.long()
    things = [batch.identity.image, batch.identity.caption]
    return torch.stack([*things, counted, batch.index, batch.epoch, batch.text.mask.sum(1)], 1)


def _gather_texts(batches: Sequence[Batch], places: _Places) -> Text:
    """Everyone's tokens, as wide as the widest."""
    widths = [batch.text.ids.shape[1] for batch in batches]
    width = int(distributed.gather(torch.tensor([max(widths)], device=batches[0].index.device)).max())
    both = [
        F.pad(torch.stack([batch.text.ids, batch.text.mask.long()], 1), (0, width - own))
        for batch, own in zip(batches, widths, strict=True)
    ]
    ids, mask = places.gather(torch.cat(both)).unbind(1)
    return Text(ids, mask.bool())

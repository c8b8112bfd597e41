"""Stage 1: the bridge learns from a frozen image encoder's patches and their texts (BLIP-2 §3.2).

It gathers over ranks: embeddings, what rows are, and the rows that ITM pairs with others.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from isthmus import distributed
from isthmus.models.bridge import Bridge
from isthmus.models.contrast import Contrast, Embeddings, Given, Others, Pairs, Rows
from isthmus.objectives.identity import IdentityPolicy
from isthmus.objectives.itc import itc
from isthmus.objectives.itg import itg, labelled, next_tokens
from isthmus.objectives.itm import Anchors, every_nth, itm
from isthmus.objectives.negatives import (
    IMAGES_FOR_TEXT,
    TEXTS_FOR_IMAGE,
    NegativeKey,
    Negatives,
    draw_negatives,
)
from isthmus.qformer.memory import Memory
from isthmus.qformer.qformer import ImageEncoding, Prefix
from isthmus.qformer.tokenizer import for_generation
from isthmus.records import Batch, Losses, Step, Term, Text


@dataclass(frozen=True)
class Stage1Options:
    """The switches of stage 1 (DESIGN 5.6); the defaults follow the paper, the comments name the original's."""

    gather: Literal["exact", "detached"] = "exact"  # the original: detached
    identity: IdentityPolicy = "image_or_caption"  # the original: off
    negatives: Literal["uniform_then_hard", "hard"] = "uniform_then_hard"  # the original: hard
    uniform_share: float = 0.3
    itm_every: int = 1
    itc_smoothing: float = 0.1
    itg_smoothing: float = 0.1
    clamp_temperature: bool = True  # the original: False


class Stage1(nn.Module):
    """Image-text contrastive learning, image-grounded text generation and image-text matching, in that order."""

    def __init__(self, bridge: Bridge, *, dec: int, options: Stage1Options | None = None) -> None:
        super().__init__()
        self.bridge = bridge
        self.dec = dec
        self.options = options or Stage1Options()

    def forward(self, batch: Batch, step: Step, given: Given | None = None) -> Losses:
        """Compute the three losses of a batch of patches and texts, before division (BLIP-2 §3.2).

        With `given`, the batch is a part of a larger contrastive batch, whose ITC and negatives are known already.
        """
        temperature = self.temperature()
        with self.bridge.qformer.joined_words():
            image, own = self.encode(batch)
            if given is None:
                contrastive, others = self._compare(batch, own, step)
            else:
                contrastive, others = given.share(own, temperature), given.negatives
            generated = self.generate(batch, image.prefix)
            return Losses({"itc": contrastive, "itg": generated, "itm": self.match(batch, image.memory, others())})

    def count(self, batch: Batch, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """The weights that `forward` will return, known before it: rows of ITC and ITM, tokens of ITG.

        They are the same at every `step`.
        """
        pairs = self.pairs(batch)
        anchors = self.anchors(batch, pairs.number)
        drawable = ~pairs.barred.all(dim=1)[anchors.index]
        return self.weigh(batch, (anchors.weight * (1 + 2 * drawable)).sum())

    def weigh(self, batch: Batch, matched: Float[Tensor, ""]) -> Mapping[str, Float[Tensor, ""]]:
        """The weights of the losses where ITM has so many rows."""
        counted = _counted(batch)
        tokens = batch.text.mask[:, 1:] & counted[:, None]
        return {"itc": counted.sum().float(), "itg": tokens.sum().float(), "itm": matched}

    def anchors(self, batch: Batch, number: Int[Tensor, " B"]) -> Anchors:
        """The rows of a batch that ITM is computed on; `number` of a row says how many that count came before it."""
        return every_nth(self.options.itm_every, _counted(batch), number)

    def temperature(self) -> nn.Parameter:
        """ITC's temperature, held in its range unless told otherwise."""
        heads = self.bridge.need_heads()
        if self.options.clamp_temperature:
            heads.clamp_temperature()
        return heads.need_temperature()

    def pairs(self, batch: Batch) -> Pairs:
        """Compare what rows are, here and on all ranks; one collective."""
        rows, offset = Rows.of(batch), distributed.rank() * len(batch)
        return Pairs.between(rows, rows.gathered(), offset=offset, policy=self.options.identity)

    def encode(self, batch: Batch) -> tuple[ImageEncoding, Embeddings]:
        """Read images and texts apart: what the queries have seen, and the embeddings for ITC."""
        image = self.bridge.qformer.encode_image(batch.vision)
        return image, self.embed(image.states, self.bridge.qformer.encode_text(batch.text))

    def embed(self, queries: Float[Tensor, "B Q D"], cls: Float[Tensor, "B D"]) -> Embeddings:
        """Go over to ITC's embeddings, in fp32: bf16's steps are large over a small temperature."""
        with torch.autocast(cls.device.type, enabled=False):
            precise = torch.promote_types(cls.dtype, torch.float32)
            image = self.bridge.image_embeddings(queries.to(precise))
            return Embeddings(image, self.bridge.text_embeddings(cls.to(precise)))

    def contrast(self, own: Embeddings) -> Contrast:
        """Compare everything with everything, in fp32 too."""
        with torch.autocast(own.text.device.type, enabled=False):
            return Contrast.between(own, own.gathered(exact=self.options.gather == "exact"))

    def itc(self, contrast: Contrast, pairs: Pairs) -> Term:
        """ITC of rows against everyone's."""
        return itc(
            contrast.image_text,
            contrast.text_image,
            same=pairs.same,
            temperature=self.bridge.need_heads().need_temperature(),
            smoothing=self.options.itc_smoothing,
            counted=pairs.counted,
        )

    def negatives(self, contrast: Contrast, pairs: Pairs, step: Step) -> tuple[Negatives, Negatives]:
        """Draw another image for each text, another text for each image; uniform first, then by similarity."""
        hard = self.options.negatives == "hard" or step.progress >= self.options.uniform_share
        temperature = self.bridge.need_heads().need_temperature().detach()
        drawn = []
        for direction, similarity in ((IMAGES_FOR_TEXT, contrast.text_image), (TEXTS_FOR_IMAGE, contrast.image_text)):
            log_weight = similarity.detach() / temperature if hard else torch.zeros_like(similarity)
            drawn.append(
                draw_negatives(
                    log_weight,
                    same=pairs.barred,
                    anchors=pairs.anchors,
                    candidates=pairs.candidates,
                    key=NegativeKey(step.seed, step.epoch, direction),
                    offset=pairs.offset,
                )
            )
        return drawn[0], drawn[1]

    def generate(self, batch: Batch, prefix: Prefix) -> Term:
        """ITG: every token but a text's last is an input, every token but the first a label."""
        qformer, text = self.bridge.qformer, batch.text
        inputs = for_generation(Text(text.ids[:, :-1], text.mask[:, 1:]), self.dec)
        asked = text.mask if batch.counted is None else text.mask & batch.counted[:, None]
        states, labels = labelled(qformer.decode(inputs, prefix), next_tokens(text.ids, asked))
        return itg(qformer.predict(states), labels, smoothing=self.options.itg_smoothing)

    def match(self, batch: Batch, memory: Memory, others: Others) -> Term:
        """ITM on the rows (image, its text), (another image, the text), (the image, another text) of every anchor."""
        own, images, captions = others.anchors, others.images, others.captions
        if len(others.patches):
            memory = Memory.concatenate(memory, self.bridge.qformer.memory.project(others.patches))
        paired = memory.select(torch.cat([own.index, images.index, own.index]))
        rows = others.texts.select(torch.cat([own.index, own.index, captions.index]))
        logits = self.bridge.match_logits(self.bridge.qformer.fuse(rows, paired))
        weight = torch.cat([own.weight, images.weight, captions.weight])
        match = torch.arange(len(weight), device=weight.device) < len(own.weight)
        return itm(logits, match=match, weight=weight)

    def _compare(self, batch: Batch, own: Embeddings, step: Step) -> tuple[Term, Callable[[], Others]]:
        """ITC over all ranks' rows of this batch, and the fetching of what ITM pairs them with, for later.

        The host learns what must be sent while the device goes on with ITC and ITG.
        """
        pairs, contrast = self.pairs(batch), self.contrast(own)
        anchors = self.anchors(batch, pairs.number)
        images, captions = (drawn.at(anchors) for drawn in self.negatives(contrast, pairs, step))
        wanted = distributed.Exchange(images.index, captions.index, rows=len(batch), width=batch.text.ids.shape[1])
        return self.itc(contrast, pairs), lambda: Others(
            anchors,
            wanted.fetch(IMAGES_FOR_TEXT, batch.vision),
            _with_fetched(batch.text, wanted),
            Negatives(wanted.places(IMAGES_FOR_TEXT), images.weight),
            Negatives(wanted.places(TEXTS_FOR_IMAGE), captions.weight),
        )


def _counted(batch: Batch) -> Bool[Tensor, " B"]:
    """Which rows count: all, unless the batch says otherwise."""
    return torch.ones_like(batch.index, dtype=torch.bool) if batch.counted is None else batch.counted


def _with_fetched(text: Text, wanted: distributed.Exchange) -> Text:
    """A rank's texts, and then those of other ranks that it needs, as wide as the widest rank's."""
    if distributed.world_size() == 1:
        return text
    own = F.pad(torch.stack([text.ids, text.mask.long()], 1), (0, wanted.widest - text.ids.shape[1]))
    ids, mask = torch.cat([own, wanted.fetch(TEXTS_FOR_IMAGE, own)]).unbind(1)
    return Text(ids, mask.bool())

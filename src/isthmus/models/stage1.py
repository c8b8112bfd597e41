"""Stage 1: the bridge learns from a frozen image encoder's patches and their texts (BLIP-2 §3.2).

The only place that gathers over ranks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from isthmus import distributed
from isthmus.models.bridge import Bridge
from isthmus.objectives.identity import IdentityPolicy, same_thing
from isthmus.objectives.itc import image_to_text, itc, text_to_image
from isthmus.objectives.itg import itg, labelled, next_tokens
from isthmus.objectives.itm import itm
from isthmus.objectives.negatives import (
    IMAGES_FOR_TEXT,
    TEXTS_FOR_IMAGE,
    NegativeKey,
    Negatives,
    draw_negatives,
)
from isthmus.qformer.memory import Memory
from isthmus.qformer.qformer import Prefix
from isthmus.qformer.tokenizer import for_generation
from isthmus.records import Batch, Identity, Losses, Step, Term, Text


@dataclass(frozen=True)
class Stage1Options:
    """The switches of stage 1 (DESIGN 5.6); the defaults follow the paper, the comments name the original's."""

    gather: Literal["exact", "detached"] = "exact"  # the original: detached
    identity: IdentityPolicy = "image_or_caption"  # the original: off
    negatives: Literal["uniform_then_hard", "hard"] = "uniform_then_hard"  # the original: hard
    uniform_share: float = 0.3
    itc_smoothing: float = 0.1
    itg_smoothing: float = 0.1
    clamp_temperature: bool = True  # the original: False


@dataclass(frozen=True)
class Contrast:
    """Cosines of this rank's rows against the gathered batch, both directions, and which are the same thing."""

    image_text: Float[Tensor, "B N"]
    text_image: Float[Tensor, "B N"]
    same: Bool[Tensor, "B N"]


class Stage1(nn.Module):
    """Image-text contrastive learning, image-grounded text generation and image-text matching, in that order."""

    def __init__(self, bridge: Bridge, *, dec: int, options: Stage1Options | None = None) -> None:
        super().__init__()
        self.bridge = bridge
        self.dec = dec
        self.options = options or Stage1Options()

    def forward(self, batch: Batch, step: Step) -> Losses:
        """Compute the three losses of a batch of patches and texts, before division (BLIP-2 §3.2)."""
        bridge, options = self.bridge, self.options
        heads = bridge.need_heads()
        temperature = heads.need_temperature()
        if options.clamp_temperature:
            heads.clamp_temperature()

        with bridge.qformer.joined_words():
            image = bridge.qformer.encode_image(batch.vision)
            text = bridge.qformer.encode_text(batch.text)
            contrast = self._contrast(image.states, text, batch.identity)
            images, texts = self._negatives(contrast, temperature, batch.index, step)
            return Losses(
                {
                    "itc": itc(
                        contrast.image_text,
                        contrast.text_image,
                        same=contrast.same,
                        temperature=temperature,
                        smoothing=options.itc_smoothing,
                    ),
                    "itg": self._generate(batch.text, image.prefix),
                    "itm": self._match(batch, image.memory, images, texts),
                }
            )

    def count(self, batch: Batch, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """The weights that `forward` will return, known before it: rows of ITC and ITM, tokens of ITG.

        They are the same at every `step`.
        """
        rows = torch.full((), float(len(batch)), device=batch.index.device)
        drawable = (~self._same(batch.identity).all(dim=1)).sum()
        return {"itc": rows, "itg": batch.text.mask[:, 1:].sum().float(), "itm": rows + 2 * drawable}

    def _contrast(self, queries: Float[Tensor, "B Q D"], cls: Float[Tensor, "B D"], identity: Identity) -> Contrast:
        """Compare everything with everything, in fp32: bf16's steps are large over a small temperature."""
        exact = self.options.gather == "exact"
        with torch.autocast(cls.device.type, enabled=False):
            precise = torch.promote_types(cls.dtype, torch.float32)
            image = self.bridge.image_embeddings(queries.to(precise))
            text = self.bridge.text_embeddings(cls.to(precise))
            all_image, all_text = distributed.gather(image, exact=exact), distributed.gather(text, exact=exact)
            return Contrast(image_to_text(image, all_text), text_to_image(text, all_image), self._same(identity))

    def _same(self, identity: Identity) -> Bool[Tensor, "B N"]:
        everyone = Identity(distributed.gather(identity.image), distributed.gather(identity.caption))
        offset = distributed.rank() * len(identity.image)
        return same_thing(identity, everyone, offset=offset, policy=self.options.identity)

    def _negatives(
        self, contrast: Contrast, temperature: Float[Tensor, ""], index: Int[Tensor, " B"], step: Step
    ) -> tuple[Negatives, Negatives]:
        """Another image for each text, another text for each image; uniform first, then by similarity."""
        hard = self.options.negatives == "hard" or step.progress >= self.options.uniform_share
        everyone = distributed.gather(index)
        drawn = []
        for direction, similarity in ((IMAGES_FOR_TEXT, contrast.text_image), (TEXTS_FOR_IMAGE, contrast.image_text)):
            log_weight = similarity.detach() / temperature.detach() if hard else torch.zeros_like(similarity)
            key = NegativeKey(step.seed, step.epoch, direction)
            drawn.append(draw_negatives(log_weight, same=contrast.same, anchors=index, candidates=everyone, key=key))
        return drawn[0], drawn[1]

    def _generate(self, text: Text, prefix: Prefix) -> Term:
        """ITG: every token but a text's last is an input, every token but the first a label."""
        qformer = self.bridge.qformer
        inputs = for_generation(Text(text.ids[:, :-1], text.mask[:, 1:]), self.dec)
        states, labels = labelled(qformer.decode(inputs, prefix), next_tokens(text.ids, text.mask))
        return itg(qformer.predict(states), labels, smoothing=self.options.itg_smoothing)

    def _match(self, batch: Batch, memory: Memory, images: Negatives, texts: Negatives) -> Term:
        """ITM on the rows (image, its text), (another image, the text), (the image, another text)."""
        own = torch.arange(len(batch), device=batch.index.device)
        if distributed.world_size() == 1:
            paired = memory.select(torch.cat([own, images.index, own]))
        else:
            others = distributed.gather(batch.vision, exact=False)[images.index]
            joined = Memory.concatenate(memory, self.bridge.qformer.memory.project(others))
            paired = joined.select(torch.cat([own, own + len(batch), own]))
        ids, mask = distributed.gather_padded(batch.text.ids), distributed.gather_padded(batch.text.mask)
        own = own + distributed.rank() * len(batch)
        rows = Text(ids, mask).select(torch.cat([own, own, texts.index]))
        logits = self.bridge.match_logits(self.bridge.qformer.fuse(rows, paired))
        weight = torch.cat([torch.ones_like(images.weight), images.weight, texts.weight])
        match = torch.arange(len(weight), device=weight.device) < len(batch)
        return itm(logits, match=match, weight=weight)

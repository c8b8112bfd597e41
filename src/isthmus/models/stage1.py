"""Stage 1: the bridge learns from a frozen image encoder's patches and their texts (BLIP-2 §3.2).

The only place that gathers over ranks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

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
class Pairs:
    """This rank's rows beside the gathered ones, as far as is known before anything is computed.

    `same`: they are the same thing. `counted`: both count (None: all do). `anchors` and `candidates` are the rows'
    positions in their source; anchor 0 is gathered row `offset`.
    """

    same: Bool[Tensor, "B N"]
    counted: Bool[Tensor, "B N"] | None
    anchors: Int[Tensor, " B"]
    candidates: Int[Tensor, " N"]
    offset: int

    @property
    def barred(self) -> Bool[Tensor, "B N"]:
        """Which are never negatives of each other."""
        return self.same if self.counted is None else self.same | ~self.counted


@dataclass(frozen=True)
class Contrast:
    """Cosines of this rank's rows against the gathered batch, both directions."""

    image_text: Float[Tensor, "B N"]
    text_image: Float[Tensor, "B N"]


@dataclass(frozen=True)
class Others:
    """What ITM pairs the rows with. `images.index` counts the rows' own images and then `patches`, which are others'.

    `captions.index` is the place in `texts`: the rows' own, and then others'.
    """

    patches: Float[Tensor, "F P V"]
    texts: Text
    images: Negatives
    captions: Negatives


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
            pairs, contrast = self.pairs(batch), self.contrast(image.states, text)
            images, captions = self.negatives(contrast, pairs, temperature, step)
            # The host learns what must be sent while the device goes on with ITC and ITG.
            wanted = distributed.Exchange(images.index, captions.index, rows=len(batch), width=batch.text.ids.shape[1])
            return Losses(
                {
                    "itc": itc(
                        contrast.image_text,
                        contrast.text_image,
                        same=pairs.same,
                        temperature=temperature,
                        smoothing=options.itc_smoothing,
                        counted=pairs.counted,
                    ),
                    "itg": self.generate(batch, image.prefix),
                    "itm": self.match(batch, image.memory, self._others(batch, images, captions, wanted)),
                }
            )

    def count(self, batch: Batch, step: Step) -> Mapping[str, Float[Tensor, ""]]:
        """The weights that `forward` will return, known before it: rows of ITC and ITM, tokens of ITG.

        They are the same at every `step`.
        """
        rows, tokens = torch.full((), float(len(batch)), device=batch.index.device), batch.text.mask[:, 1:]
        if batch.counted is not None:
            rows, tokens = batch.counted.sum().float(), tokens & batch.counted[:, None]
        drawable = (~self.pairs(batch).barred.all(dim=1)).sum()
        return {"itc": rows, "itg": tokens.sum().float(), "itm": rows + 2 * drawable}

    def pairs(self, batch: Batch) -> Pairs:
        """Compare what rows are, here and on all ranks; one collective."""
        identity, counted, offset = batch.identity, batch.counted, distributed.rank() * len(batch)
        mine = [identity.image, identity.caption, batch.index, *([] if counted is None else [counted.long()])]
        image, caption, candidates, *rest = distributed.gather_together(*mine)
        same = same_thing(identity, Identity(image, caption), offset=offset, policy=self.options.identity)
        both = None if counted is None else counted[:, None] & rest[0].bool()
        return Pairs(same, both, batch.index, candidates, offset)

    def contrast(self, queries: Float[Tensor, "B Q D"], cls: Float[Tensor, "B D"]) -> Contrast:
        """Compare everything with everything, in fp32: bf16's steps are large over a small temperature."""
        exact = self.options.gather == "exact"
        with torch.autocast(cls.device.type, enabled=False):
            precise = torch.promote_types(cls.dtype, torch.float32)
            image = self.bridge.image_embeddings(queries.to(precise))
            text = self.bridge.text_embeddings(cls.to(precise))
            all_image, all_text = distributed.gather(image, exact=exact), distributed.gather(text, exact=exact)
            return Contrast(image_to_text(image, all_text), text_to_image(text, all_image))

    def negatives(
        self, contrast: Contrast, pairs: Pairs, temperature: Float[Tensor, ""], step: Step
    ) -> tuple[Negatives, Negatives]:
        """Draw another image for each text, another text for each image; uniform first, then by similarity."""
        hard = self.options.negatives == "hard" or step.progress >= self.options.uniform_share
        drawn = []
        for direction, similarity in ((IMAGES_FOR_TEXT, contrast.text_image), (TEXTS_FOR_IMAGE, contrast.image_text)):
            log_weight = similarity.detach() / temperature.detach() if hard else torch.zeros_like(similarity)
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
        """ITM on the rows (image, its text), (another image, the text), (the image, another text)."""
        own = torch.arange(len(batch), device=batch.index.device)
        if len(others.patches):
            memory = Memory.concatenate(memory, self.bridge.qformer.memory.project(others.patches))
        paired = memory.select(torch.cat([own, others.images.index, own]))
        rows = others.texts.select(torch.cat([own, own, others.captions.index]))
        logits = self.bridge.match_logits(self.bridge.qformer.fuse(rows, paired))
        counts = others.images.weight.new_ones(len(batch)) if batch.counted is None else batch.counted.float()
        weight = torch.cat([counts, others.images.weight, others.captions.weight])
        match = torch.arange(len(weight), device=weight.device) < len(batch)
        return itm(logits, match=match, weight=weight)

    def _others(self, batch: Batch, images: Negatives, captions: Negatives, wanted: distributed.Exchange) -> Others:
        """Have the drawn rows of other ranks sent here, as raw patches and tokens."""
        return Others(
            wanted.fetch(IMAGES_FOR_TEXT, batch.vision),
            _with_fetched(batch.text, wanted),
            Negatives(wanted.places(IMAGES_FOR_TEXT), images.weight),
            Negatives(wanted.places(TEXTS_FOR_IMAGE), captions.weight),
        )


def _with_fetched(text: Text, wanted: distributed.Exchange) -> Text:
    """A rank's texts, and then those of other ranks that it needs, as wide as the widest rank's."""
    if distributed.world_size() == 1:
        return text
    own = F.pad(torch.stack([text.ids, text.mask.long()], 1), (0, wanted.widest - text.ids.shape[1]))
    ids, mask = torch.cat([own, wanted.fetch(TEXTS_FOR_IMAGE, own)]).unbind(1)
    return Text(ids, mask.bool())

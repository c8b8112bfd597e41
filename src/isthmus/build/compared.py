"""One bridge in isthmus and in plain transformers: how far their numbers lie apart, on the same two pictures.

The one difference that is meant: transformers has a single eps for all norms of an image tower, so that the LayerNorm
on the patches takes the tower's, 1e-6 for EVA ViT-g, where bridges of LAVIS and isthmus have 1e-5.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor

from isthmus.build.exported import MODELS, Exported
from isthmus.build.pretrained import Pretrained
from isthmus.checkpoints.keymap import RETRIEVAL
from isthmus.models.bridge import Bridge
from isthmus.objectives.itc import image_to_text
from isthmus.records import Text

_TEXTS = ["a photo of a red boat", "what is this?"]


@dataclass(frozen=True)
class Difference:
    """Of one kind of number: the largest difference between the two libraries, and the largest of the numbers."""

    largest: float
    scale: float

    @property
    def is_far(self) -> bool:
        """Whether it is more than two eps of one LayerNorm make of fp32 numbers."""
        return not self.largest <= 0.02 * max(self.scale, 1e-3)

    @staticmethod
    def of(ours: Float[Tensor, "..."], theirs: Float[Tensor, "..."]) -> "Difference":
        """Compare two tensors of one shape."""
        ours, theirs = ours.double().cpu(), theirs.double().cpu()
        return Difference((ours - theirs).abs().max().item(), theirs.abs().max().item())


@torch.inference_mode()
def compare(pretrained: Pretrained, stage: int, exported: Exported) -> dict[str, Difference]:
    """Run both models, in the precision of ours, on two made pictures and texts.

    Stage 1: ITM's logits and ITC's cosines of both pictures with both texts; stage 2: the language model's logits at
    every place of the text. The processor's pixels are compared with ours, and both models are given ours.
    """
    pictures = [_picture(0), _picture(1)]
    bridge = pretrained.bridges[stage].bridge
    pixels = torch.stack([pretrained.encoder.preprocessing.centre(picture) for picture in pictures])
    processor = AutoProcessor.from_pretrained(str(exported.folder))
    given = dict(processor(images=pictures, text=_TEXTS, padding=True, return_tensors="pt"))
    found = {"pixels": Difference.of(pixels, given.pop("pixel_values"))}
    model = MODELS[exported.table.name].from_pretrained(str(exported.folder), dtype=pretrained.compute.dtype).eval()
    patches = pretrained.encoder(pixels)
    if exported.table is RETRIEVAL:
        text = Text(given["input_ids"], given["attention_mask"].bool())
        cosines, logits = _scores(bridge, patches, text)
        theirs = [model(pixel_values=pixels, **given, use_image_text_matching_head=itm) for itm in (False, True)]
        found["ITC cosines"] = Difference.of(cosines, theirs[0].logits_per_image)
        found["ITM logits"] = Difference.of(logits, theirs[1].logits_per_image)
        return found
    llm: Any = pretrained.llm
    if (start := llm.generation_marks()["decoder_start_token_id"]) is not None:
        given["decoder_input_ids"] = torch.full((len(pictures), 1), start)
    soft_prompt = _soft_prompt(bridge, patches, given)
    ours = _language_logits(pretrained, soft_prompt, given)
    found["logits"] = Difference.of(ours, model(pixel_values=pixels, **given).logits)
    return found


def _scores(bridge: Bridge, patches: Float[Tensor, "B P V"], text: Text) -> tuple[Tensor, Tensor]:
    """ITC's cosines of all pairs, and ITM's logits of each picture with its own text."""
    image = bridge.qformer.encode_image(patches)
    words = bridge.text_embeddings(bridge.qformer.encode_text(text))
    logits = bridge.match_logits(bridge.qformer.fuse(text, image.memory))
    return image_to_text(bridge.image_embeddings(image.states), words), logits


def _soft_prompt(
    bridge: Bridge, patches: Float[Tensor, "B P V"], given: Mapping[str, Int[Tensor, "..."]]
) -> Float[Tensor, "B Q L"]:
    """What the language model reads of pictures, looked at with the instruction in mind where the bridge reads one."""
    if "qformer_input_ids" not in given:
        return bridge.soft_prompt(patches)
    return bridge.instructed_prompt(patches, Text(given["qformer_input_ids"], given["qformer_attention_mask"].bool()))


def _language_logits(
    pretrained: Pretrained, soft_prompt: Float[Tensor, "B Q L"], given: Mapping[str, Int[Tensor, "..."]]
) -> Float[Tensor, "B S W"]:
    """The language model's logits, read by its own embeddings and not by theirs."""
    llm: Any = pretrained.llm
    count = soft_prompt.shape[1]
    sequence = torch.cat([soft_prompt.to(llm.model.dtype), llm.embed(given["input_ids"][:, count:])], 1)
    options = {key: value for key, value in given.items() if key == "decoder_input_ids"}
    logits: Tensor = llm.model(inputs_embeds=sequence, attention_mask=given["attention_mask"], **options).logits
    return logits


def _picture(number: int) -> Image.Image:
    """A picture that is the same on every machine: slanted stripes in three colours."""
    side = 96
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    channels = [((rows * (number + 1) + columns * step) % 64) * 4 for step in (1, 2, 3)]
    return Image.fromarray(torch.stack(channels, -1).to(torch.uint8).numpy())

"""All that learns: Q-Former, the heads of ITC and ITM, and the projection into a language model."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from isthmus.errors import AbsentPartError
from isthmus.qformer.layer import Dropouts
from isthmus.qformer.qformer import QFormer
from isthmus.records import BridgeSizes, Text

START_TEMPERATURE = 0.07
TEMPERATURE_RANGE = (0.001, 0.5)
NO_TEMPERATURE = (
    "this bridge has no temperature, as weights of transformers have none: train it on with init.temperature=0.07, or "
    "rank by the original's sum, which needs none"
)


class Heads(nn.Module):
    """The projections of ITC into the shared embedding, ITM's two-way head, and the learned temperature, if any."""

    def __init__(self, width: int, shared_width: int, *, temperature: bool = True) -> None:
        super().__init__()
        self.image = nn.Linear(width, shared_width)
        self.text = nn.Linear(width, shared_width)
        self.match = nn.Linear(width, 2)
        self.temperature = nn.Parameter(torch.tensor(START_TEMPERATURE)) if temperature else None

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Hold the temperature in the range that BLIP-1 uses; BLIP-2's code dropped it."""
        self.need_temperature().clamp_(*TEMPERATURE_RANGE)

    @property
    def known_temperature(self) -> float | None:
        """The temperature's value on the host, or None where it is absent."""
        return None if self.temperature is None else self.temperature.item()

    def need_temperature(self) -> nn.Parameter:
        """The temperature of ITC; raises `AbsentPartError` where it is absent."""
        if self.temperature is None:
            raise AbsentPartError(NO_TEMPERATURE)
        return self.temperature


class Bridge(nn.Module):
    """The strip between the towers; a part that `sizes` leaves out is absent, and what needs it is refused."""

    def __init__(self, sizes: BridgeSizes, dropouts: Dropouts | None = None) -> None:
        super().__init__()
        self.sizes = sizes
        self.qformer = QFormer(sizes, dropouts)
        self.heads = (
            None
            if sizes.shared_width is None
            else Heads(sizes.width, sizes.shared_width, temperature=sizes.temperature)
        )
        self.projection = None if sizes.language_width is None else nn.Linear(sizes.width, sizes.language_width)

    def image_embeddings(self, states: Float[Tensor, "B Q D"]) -> Float[Tensor, "B Q E"]:
        """ITC's embeddings of images, one L2-normalised row per query (BLIP-2 §3.2)."""
        return F.normalize(self.need_heads().image(states), dim=-1)

    def text_embeddings(self, states: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        """ITC's embeddings of texts from their [CLS] states, L2-normalised (BLIP-2 §3.2)."""
        return F.normalize(self.need_heads().text(states), dim=-1)

    def match_logits(self, states: Float[Tensor, "B Q D"]) -> Float[Tensor, "B 2"]:
        """ITM's logits: the head on every query, averaged (BLIP-2 §3.2)."""
        logits: Tensor = self.need_heads().match(states)
        return logits.mean(dim=1)

    def query_states(self, patches: Float[Tensor, "B P V"], instruction: Text | None = None) -> Float[Tensor, "B Q D"]:
        """What the queries have seen of images; with an instruction each, queries and words see each other."""
        if instruction is None:
            return self.qformer.encode_image(patches).states
        return self.qformer.fuse(instruction, self.qformer.memory.project(patches))

    def soft_prompt(self, patches: Float[Tensor, "B P V"]) -> Float[Tensor, "B Q L"]:
        """What the language model reads of an image: its query states, projected (BLIP-2 §3.3)."""
        return self.project(self.query_states(patches))

    def instructed_prompt(self, patches: Float[Tensor, "B P V"], instruction: Text) -> Float[Tensor, "B Q L"]:
        """What it reads of an image that was looked at with an instruction in mind, under the bidirectional mask.

        Raises `AbsentPartError` without a text half. Source: InstructBLIP (arXiv 2305.06500), instruction-aware visual
        feature extraction.
        """
        return self.project(self.query_states(patches, instruction))

    def project(self, states: Float[Tensor, "B Q D"]) -> Float[Tensor, "B Q L"]:
        """Project query states to the language model's width; raises `AbsentPartError` without a projection."""
        if self.projection is None:
            raise AbsentPartError(
                "this bridge has no projection into a language model; use the folder of a stage-2 run"
            )
        prompt: Tensor = self.projection(states)
        return prompt

    def settle(self, dtype: torch.dtype) -> "Bridge":
        """Keep the weights of the layers' products in the dtype that they are computed in: for prediction alone.

        Under autocast every call would round them anew; now they are rounded once, to the same numbers. Norms,
        embeddings, heads and the image's keys and values stay as they are. Returns itself.
        """
        for part in self.qformer.layers.modules():
            if isinstance(part, nn.Linear):
                part.to(dtype)
        return self

    def need_heads(self) -> Heads:
        """The heads of ITC and ITM; raises `AbsentPartError` where they are absent."""
        if self.heads is None:
            raise AbsentPartError("this bridge has no ITC and ITM heads; use the folder of a stage-1 run")
        return self.heads

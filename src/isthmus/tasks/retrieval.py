"""Image-text retrieval by ITC: embed once, compare all, count recall at K both ways (BLIP-2 §4.4)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from isthmus.models.bridge import Bridge
from isthmus.objectives.identity import same_thing
from isthmus.objectives.itc import image_to_text
from isthmus.records import Batch, Identity

KS = (1, 5, 10)


@dataclass(frozen=True)
class Embedded:
    """A set of pictures and their texts in ITC's shared space, on the host, in the source's order."""

    images: Float[Tensor, "N Q E"]
    texts: Float[Tensor, "N E"]
    captions: tuple[str, ...]
    identity: Identity

    def similarity(self) -> Float[Tensor, "N N"]:
        """Cosine of each image (row) with each text (column), the best of the image's queries."""
        return torch.cat([image_to_text(rows, self.texts) for rows in torch.split(self.images, 64)])

    def same(self) -> Bool[Tensor, "N N"]:
        """True where a row's picture and a column's text are the same thing (DESIGN 5.7)."""
        return same_thing(self.identity, self.identity, offset=0, policy="image_or_caption")


@torch.inference_mode()
def embed(bridge: Bridge, batches: Iterable[Batch], device: torch.device) -> Embedded:
    """Embed every picture and text of an evaluation source."""
    images, texts, identities = [], [], []
    captions: list[str] = []
    for host in batches:
        batch = host.to(device)
        images.append(bridge.image_features(bridge.qformer.encode_image(batch.vision).states).float().cpu())
        texts.append(bridge.text_features(bridge.qformer.encode_text(batch.text)).float().cpu())
        captions.extend(host.captions)
        identities.append(host.identity)
    identity = Identity(torch.cat([i.image for i in identities]), torch.cat([i.caption for i in identities]))
    return Embedded(torch.cat(images), torch.cat(texts), tuple(captions), identity)


def recall(similarity: Float[Tensor, "R C"], right: Bool[Tensor, "R C"]) -> dict[str, float]:
    """R@1, R@5 and R@10 in per cent: how often a right candidate is among the first K of a row.

    A wrong candidate with the same score as the best right one stands before it, so that equal scores earn nothing;
    neither do scores that are no numbers.
    """
    best = similarity.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    before = (~(similarity < best) & ~right).sum(dim=1)
    return {f"R@{k}": 100 * float((before < k).double().mean()) for k in KS}


def retrieval(embedded: Embedded) -> dict[str, dict[str, float] | int]:
    """Recall both ways among all candidates; same-thing rows count as right."""
    similarity, same = embedded.similarity(), embedded.same()
    return {
        "text_to_image": recall(similarity.T, same.T),
        "image_to_text": recall(similarity, same),
        "candidates": len(similarity),
    }

"""Image-text contrastive learning (BLIP-2 §3.2, ITC)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from isthmus.records import Term


def image_to_text(image: Float[Tensor, "B Q E"], all_text: Float[Tensor, "N E"]) -> Float[Tensor, "B N"]:
    """Cosine of each local image with each gathered text: the best of its queries. Features are L2-normalised."""
    return (image @ all_text.T).amax(dim=1)


def text_to_image(text: Float[Tensor, "B E"], all_image: Float[Tensor, "N Q E"]) -> Float[Tensor, "B N"]:
    """Cosine of each local text with each gathered image: the best of its queries. Features are L2-normalised."""
    return (all_image @ text.T).amax(dim=1).T


def itc(
    image_text: Float[Tensor, "B N"],
    text_image: Float[Tensor, "B N"],
    *,
    same: Bool[Tensor, "B N"],
    temperature: Float[Tensor, ""],
    smoothing: float,
) -> Term:
    """Cross-entropy of both directions over the gathered batch, averaged, summed over local rows.

    The rows that are the same thing share the target mass equally; `smoothing` spreads a share of it over all N
    candidates, as `label_smoothing` does. Weight: B rows. Source: BLIP-2 §3.2.
    """
    precise = torch.promote_types(image_text.dtype, torch.float32)
    share = same.to(precise) / same.sum(dim=1, keepdim=True)
    target = (1 - smoothing) * share + smoothing / same.shape[1]
    loss = torch.zeros((), dtype=precise, device=image_text.device)
    for similarity in (image_text, text_image):
        logits = similarity.to(precise) / temperature
        loss = loss - (target * logits.log_softmax(dim=1)).sum()
    return Term(loss / 2, loss.new_full((), same.shape[0]))

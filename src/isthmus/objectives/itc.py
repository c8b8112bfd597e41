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
    counted: Bool[Tensor, "B N"] | None = None,
) -> Term:
    """Cross-entropy of both directions over the gathered batch, averaged, summed over local rows.

    The rows that are the same thing share the target mass equally; `smoothing` spreads a share of it over all N
    candidates, as `label_smoothing` does. `counted` says where row and candidate both count: a row that does not weighs
    nothing, and a candidate that does not is none. Weight: the B rows, or those that count. Source: BLIP-2 §3.2.
    """
    precise = torch.promote_types(image_text.dtype, torch.float32)
    target = _targets(same, counted, smoothing, precise)
    loss = torch.zeros((), dtype=precise, device=image_text.device)
    for similarity in (image_text, text_image):
        logits = similarity.to(precise) / temperature
        if counted is not None:  # the least number, not -inf: its target is 0, and 0 · inf is not a number
            logits = logits.masked_fill(~counted, torch.finfo(precise).min)
        loss = loss - (target * logits.log_softmax(dim=1)).sum()
    weight = loss.new_full((), same.shape[0]) if counted is None else counted.any(dim=1).sum().to(precise)
    return Term(loss / 2, weight)


def _targets(
    same: Bool[Tensor, "B N"], counted: Bool[Tensor, "B N"] | None, smoothing: float, precise: torch.dtype
) -> Float[Tensor, "B N"]:
    """What each row should find among its candidates; nothing, where the row does not count."""
    if counted is None:
        share = same.to(precise) / same.sum(dim=1, keepdim=True)
        return (1 - smoothing) * share + smoothing / same.shape[1]
    shares = [those.to(precise) / those.sum(dim=1, keepdim=True).clamp(min=1) for those in (same & counted, counted)]
    return (1 - smoothing) * shares[0] + smoothing * shares[1]

"""Background-event contrast between the segments of a clip.

Source: CACE-Net, section 3.3, Eq. 7.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cace.settings import ContrastForm


def bece_loss(
    query: Float[Tensor, "B T D"],
    key: Float[Tensor, "B T D"],
    is_event: Bool[Tensor, "B T"],
    temperature: float,
    form: ContrastForm = "paper",
) -> Float[Tensor, ""]:
    """Background-event contrast: the mean over all 2T views of all clips (Eq. 7)."""
    return bece_per_view(query, key, is_event, temperature, form).mean()


def bece_per_view(
    query: Float[Tensor, "B T D"],
    key: Float[Tensor, "B T D"],
    is_event: Bool[Tensor, "B T"],
    temperature: float,
    form: ContrastForm = "paper",
) -> Float[Tensor, "B 2*T"]:
    """The contrast of each view with the others of its own clip, at least log(its positives).

    Positives of an event segment's view are all other views of event segments; of a background
    segment's view, only the second view of the same segment.

    query, key: unit vectors of the clean and the noisy view.
    temperature: τ.
    form: paper (Eq. 7), with the sum over positives inside the logarithm: one near positive is
        enough; supcon, with the mean over positives of the logarithms: each of them must be near.

    Source: Eq. 7; supcon: Khosla et al. 2020, L_out.
    """
    views = torch.cat([query, key], dim=1)
    positives = _positives(is_event)
    itself = torch.eye(views.shape[1], dtype=torch.bool, device=views.device)
    # logsumexp, not log(sum(exp)): at τ = 0.01 logits reach 100, and float32 overflows at e^88.7.
    logits = (views @ views.mT / temperature).masked_fill(itself, -torch.inf)
    count = positives.sum(dim=-1).to(logits.dtype)
    if form == "supcon":
        near = logits.masked_fill(~positives, 0).sum(dim=-1) / count
    else:
        near = logits.masked_fill(~positives, -torch.inf).logsumexp(dim=-1) - count.log()
    return logits.logsumexp(dim=-1) - near


def bece_floor(is_event: Bool[Tensor, "B T"]) -> float:
    """Lower bound of `bece_loss`: the mean of log(number of positives)."""
    return _positives(is_event).sum(dim=-1).double().log().mean().item()


def _positives(is_event: Bool[Tensor, "B T"]) -> Bool[Tensor, "B 2*T 2*T"]:
    event = torch.cat([is_event, is_event], dim=1)
    views = event.shape[1]
    segment = torch.arange(views, device=event.device) % is_event.shape[1]
    same_segment = segment.unsqueeze(0) == segment.unsqueeze(1)
    itself = torch.eye(views, dtype=torch.bool, device=event.device)
    both_events = event.unsqueeze(2) & event.unsqueeze(1)
    return (both_events | same_segment) & ~itself

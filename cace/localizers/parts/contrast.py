"""What the localizer is trained for, term by term.

Source: CACE-Net, sections 3.3 and 3.5, Eq. 7 and 12.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cace.localizers.cace_net import Localization
from cace.settings import ContrastForm


class LossTerms(NamedTuple):
    """The terms of Eq. 12, each a mean; `contrast` is None where it does not count."""

    relevance: Float[Tensor, ""]
    category: Float[Tensor, ""]
    gate: Float[Tensor, ""]
    class_activation: Float[Tensor, ""]
    contrast: Float[Tensor, ""] | None


def loss_terms(
    out: Localization,
    labels: Int[Tensor, "B T"],
    background: int,
    *,
    contrast: bool,
    temperature: float,
    form: ContrastForm = "paper",
) -> LossTerms:
    """All terms for a batch.

    labels: category index of each segment, `background` outside events.
    contrast: whether the contrast term counts, as it does from `bece.start` on.

    Differs from the paper's text, as the published results do: background suppression is the gate
    term and the class-activation term; the gate, already in (0, 1), goes through a sigmoid again,
    so its term cannot reach 0. Differs from both: a clip without any event is left out of the
    category terms; published code counts it as category 0.
    """
    is_event = labels != background
    event = is_event.to(out.relevance.dtype)
    category, has_event = clip_category(labels, background)
    return LossTerms(
        relevance=F.binary_cross_entropy_with_logits(out.relevance, event),
        category=_cross_entropy(out.class_logits, category, has_event),
        gate=F.binary_cross_entropy_with_logits(out.gate, event),
        class_activation=_cross_entropy(out.class_activation, category, has_event),
        contrast=(
            bece_loss(out.query, out.key, is_event, temperature, form)
            if contrast and out.query is not None and out.key is not None
            else None
        ),
    )


def part_of_batch(
    terms: LossTerms, labels: Int[Tensor, "b T"], batch: Int[Tensor, "B T"], background: int
) -> LossTerms:
    """What some clips of a batch contribute: over its parts, the sums are the batch's terms.

    terms: of those clips alone. labels, batch: of those clips, and of all clips of the batch.
    """
    clips = len(labels) / len(batch)
    events, all_events = (int(clip_category(some, background)[1].sum()) for some in (labels, batch))
    with_event = events / max(all_events, 1)
    return LossTerms(
        relevance=clips * terms.relevance,
        category=with_event * terms.category,
        gate=clips * terms.gate,
        class_activation=with_event * terms.class_activation,
        contrast=None if terms.contrast is None else clips * terms.contrast,
    )


def total(terms: LossTerms, contrast_weight: float) -> Float[Tensor, ""]:
    """Eq. 12, with a weight for the contrast."""
    supervised = terms.relevance + terms.category + terms.gate + terms.class_activation
    return supervised if terms.contrast is None else supervised + contrast_weight * terms.contrast


def clip_category(
    labels: Int[Tensor, "B T"], background: int
) -> tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]:
    """The event category of each clip (the largest, where it has two), and whether it has one."""
    category = labels.masked_fill(labels == background, -1).amax(dim=1)
    return category, category >= 0


def _cross_entropy(
    logits: Float[Tensor, "B C"], category: Int[Tensor, " B"], counts: Bool[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Mean over the clips that count; 0 where none does."""
    each = F.cross_entropy(logits, category, ignore_index=-1, reduction="sum")
    return each / counts.sum().clamp(min=1)


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
    """What `bece_loss` cannot fall below: the mean of log(number of positives)."""
    return _positives(is_event).sum(dim=-1).double().log().mean().item()


def _positives(is_event: Bool[Tensor, "B T"]) -> Bool[Tensor, "B 2*T 2*T"]:
    event = torch.cat([is_event, is_event], dim=1)
    views = event.shape[1]
    segment = torch.arange(views, device=event.device) % is_event.shape[1]
    same_segment = segment.unsqueeze(0) == segment.unsqueeze(1)
    itself = torch.eye(views, dtype=torch.bool, device=event.device)
    both_events = event.unsqueeze(2) & event.unsqueeze(1)
    return (both_events | same_segment) & ~itself

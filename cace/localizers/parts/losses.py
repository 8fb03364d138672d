"""Loss terms that several methods share.

Each is a sum over the given clips divided by the count of the complete batch, so that the parts of
a batch add up to it.
"""

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cace.features.batches import Batch
from cace.localizers.parts.protocol import Localization


def two_heads(out: Localization, batch: Batch, background: int) -> dict[str, Float[Tensor, ""]]:
    """Of a head that tells events from background, and one that names the clip's category."""
    return {
        "relevance": event_loss(out.relevance, batch, background),
        "category": category_loss(out.class_logits.squeeze(1), batch, background),
    }


def event_loss(logits: Float[Tensor, "b T"], batch: Batch, background: int) -> Float[Tensor, ""]:
    """Binary cross-entropy of event against background, a mean over segments."""
    event = (batch.labels != background).to(logits.dtype)
    total = F.binary_cross_entropy_with_logits(logits, event, reduction="sum")
    return total / (logits.shape[1] * batch.clips)


def category_loss(logits: Float[Tensor, "b C"], batch: Batch, background: int) -> Float[Tensor, ""]:
    """Cross-entropy of the clip's category, a mean over the clips with an event."""
    category, _ = clip_category(batch.labels, background)
    total = F.cross_entropy(logits, category, ignore_index=-1, reduction="sum")
    return total / max(batch.clips_with_event, 1)


def label_loss(scores: Float[Tensor, "b T L"], batch: Batch) -> Float[Tensor, ""]:
    """Cross-entropy of each segment's label, the background included, a mean over segments."""
    total = F.cross_entropy(scores.flatten(0, 1), batch.labels.flatten(), reduction="sum")
    return total / (scores.shape[1] * batch.clips)


def clip_category(
    labels: Int[Tensor, "b T"], background: int
) -> tuple[Int[Tensor, " b"], Bool[Tensor, " b"]]:
    """The event category of each clip (the largest, if it has two), and whether it has one.

    The category of a clip without an event is -1.
    """
    category = labels.masked_fill(labels == background, -1).amax(dim=1)
    return category, category >= 0

"""Loss terms that several methods share.

Each is a sum over the given clips divided by the count of the complete batch, so that the parts of
a batch add up to it.

With weak supervision, the same terms learn from tags. In a clip with an event, the segments that
resemble it most should show it; in a clip without one, no segment should (docs/weak.md).
"""

import math

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cace.features.batches import Batch
from cace.localizers.parts.protocol import Localization


def two_heads(out: Localization, batch: Batch, background: int) -> dict[str, Float[Tensor, ""]]:
    """Losses of a head that tells events from background, and one that names the category."""
    return {
        "relevance": event_loss(out.relevance, batch, background),
        "category": category_loss(out.class_logits.squeeze(1), batch, background),
    }


def event_loss(logits: Float[Tensor, "b T"], batch: Batch, background: int) -> Float[Tensor, ""]:
    """Binary cross-entropy of event against background, a mean over segments."""
    if batch.tags_only:
        return tag_terms(F.logsigmoid(logits), F.logsigmoid(-logits), batch, background)
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
    if batch.tags_only:
        shares = scores.log_softmax(dim=-1)
        tag = batch.labels[:, :1].unsqueeze(-1).expand(*scores.shape[:2], 1)
        own = shares.gather(-1, tag).squeeze(-1)
        return tag_terms(own, shares[..., -1], batch, scores.shape[-1] - 1)
    total = F.cross_entropy(scores.flatten(0, 1), batch.labels.flatten(), reduction="sum")
    return total / (scores.shape[1] * batch.clips)


def tag_terms(
    event: Float[Tensor, "b T"],
    background: Float[Tensor, "b T"],
    batch: Batch,
    background_label: int,
) -> Float[Tensor, ""]:
    """Loss over segments of which only the tags of their clips are known.

    event, background: log-probabilities of the clip's event, and of no event.

    -log of the mean of the k largest probabilities of the event, a mean over the clips with one;
    plus -log of the probability of no event, a mean over the segments of the other clips.
    Source: ours.
    """
    assert batch.tags_only
    k = batch.tags_only.top
    shown = event.topk(k, dim=1).values.logsumexp(dim=1) - math.log(k)
    has_event = batch.labels[:, 0] != background_label
    tagged = -(shown * has_event).sum() / max(batch.clips_with_event, 1)
    without = -(background.mean(dim=1) * ~has_event).sum() / max(batch.tags_only.background, 1)
    return tagged + without


def released_tag_loss(scores: Float[Tensor, "b L"], batch: Batch) -> Float[Tensor, ""]:
    """Multi-label soft margin of the shares of a clip's labels, a mean over labels and clips.

    Source: the released weakly supervised code of AVEL and of CMRAN. The scores go through a
    softmax and then, as in every multi-label soft margin, through a sigmoid.
    """
    tags = F.one_hot(batch.labels[:, 0], scores.shape[1]).to(scores.dtype)
    mean = F.multilabel_soft_margin_loss(scores.softmax(dim=-1), tags)
    return mean * len(scores) / batch.clips


def clip_category(
    labels: Int[Tensor, "b T"], background: int
) -> tuple[Int[Tensor, " b"], Bool[Tensor, " b"]]:
    """The event category of each clip (the largest, if it has two), and whether it has one.

    The category of a clip without an event is -1.
    """
    category = labels.masked_fill(labels == background, -1).amax(dim=1)
    return category, category >= 0

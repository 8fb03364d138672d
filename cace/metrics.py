"""Segment labels from what the localizer says, and how right they are."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Scores(NamedTuple):
    """How right predicted segment labels are; all in [0, 1]."""

    accuracy: float  # share of segments with the right label, background counted as one
    category_accuracy: float  # share of clips with an event whose category is right
    event_precision: float  # events told from background, whatever the category
    event_recall: float
    event_f1: float
    background_precision: float
    background_recall: float
    background_f1: float


def segment_predictions(
    relevance: Float[np.ndarray, "N T"],
    category: Int[np.ndarray, " N"],
    threshold: float,
    background: int,
) -> Int[np.ndarray, "N T"]:
    """The clip's category where the relevance is above θ, background elsewhere (section 3.5).

    relevance: probability that the segment holds the event.
    """
    return np.where(relevance > threshold, category[:, None], background)


def clip_categories(labels: Int[np.ndarray, "N T"], background: int) -> Int[np.ndarray, " N"]:
    """The event category of each clip (the largest, where it has two); -1 where it has none."""
    return np.where(labels == background, -1, labels).max(axis=1)


def score(
    predicted: Int[np.ndarray, "N T"],
    labels: Int[np.ndarray, "N T"],
    category: Int[np.ndarray, " N"],
    background: int,
) -> Scores:
    """category: predicted for each clip; it counts also where no segment is predicted an event."""
    truth = clip_categories(labels, background)
    has_event = truth >= 0
    is_event, says_event = labels != background, predicted != background
    return Scores(
        float((predicted == labels).mean()),
        _share((category == truth)[has_event]),
        *_precision_recall_f1(says_event, is_event),
        *_precision_recall_f1(~says_event, ~is_event),
    )


def always_background(labels: Int[np.ndarray, "N T"], background: int) -> float:
    """Accuracy of calling every segment background."""
    return float((labels == background).mean())


def never_background(labels: Int[np.ndarray, "N T"], background: int) -> float:
    """Accuracy of knowing every clip's category and calling every segment an event."""
    return float((labels == clip_categories(labels, background)[:, None]).mean())


def _share(hits: Bool[np.ndarray, " n"]) -> float:
    """Share of true values; 0 of nothing."""
    return float(hits.mean()) if hits.size else 0.0


def _precision_recall_f1(
    says: Bool[np.ndarray, "N T"], holds: Bool[np.ndarray, "N T"]
) -> tuple[float, float, float]:
    both = int((says & holds).sum())
    said, held = int(says.sum()), int(holds.sum())
    return (
        both / said if said else 0.0,
        both / held if held else 0.0,
        2 * both / (said + held) if said + held else 0.0,
    )

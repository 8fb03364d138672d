"""From relevance to segment labels, and how right they are: what epochs are chosen by."""

import numpy as np
from jaxtyping import Bool, Float, Int


def segment_predictions(
    relevance: Float[np.ndarray, "N T"],
    category: Int[np.ndarray, "N T"],
    threshold: float,
    background: int,
) -> Int[np.ndarray, "N T"]:
    """The category if the relevance is above θ, else background (section 3.5).

    relevance: probability that the segment contains an event.
    """
    return np.where(relevance > threshold, category, background)


def accuracy(predicted: Int[np.ndarray, "N T"], labels: Int[np.ndarray, "N T"]) -> float:
    """Share of segments with the right label; background counts as one."""
    return float((predicted == labels).mean())


def category_accuracy(
    category: Int[np.ndarray, " N"], labels: Int[np.ndarray, "N T"], background: int
) -> float:
    """Share of the clips with an event whose category is right; 0 without any such clip.

    category: predicted for each clip; it counts also if no segment is predicted an event.
    """
    truth = clip_categories(labels, background)
    hits = (category == truth)[truth >= 0]
    return float(hits.mean()) if hits.size else 0.0


def event_f1(
    predicted: Int[np.ndarray, "N T"], labels: Int[np.ndarray, "N T"], background: int
) -> float:
    """F1 of event against background, whatever the category."""
    found, true = predicted != background, labels != background
    return f1(count(found & true), count(found) + count(true))


def clip_categories(labels: Int[np.ndarray, "N T"], background: int) -> Int[np.ndarray, " N"]:
    """The event category of each clip (the largest, if it has two); -1 if it has none."""
    return np.where(labels == background, -1, labels).max(axis=1)


def count(hits: Bool[np.ndarray, "*shape"]) -> int:
    """Number of true values."""
    return int(hits.sum())


def f1(both: int, predicted_and_true: int) -> float:
    """Harmonic mean of precision and recall; 0 if nothing is predicted and nothing is true."""
    return 2 * both / predicted_and_true if predicted_and_true else 0.0

"""Measures of a run as means over clips: of each clip and seed, what it contributes."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from cace.evaluation.accuracy import clip_categories
from cace.evaluation.prediction_files import SavedPredictions

# The names are those of `cace.evaluation.metrics.Scores`.
MEASURES = {
    "accuracy": "accuracy",
    "category_accuracy": "category accuracy",
    "event_f1": "event F1",
    "background_recall": "background recall",
}


class Shares(NamedTuple):
    """A measure that is a share, such as of right segments: its parts in each clip.

    A seed's value is the sum of `hits` over that of `among`, or 0 if that is 0.
    """

    hits: Float[np.ndarray, "S N"]
    among: Float[np.ndarray, "S N"]

    def used(self) -> Bool[np.ndarray, " N"]:
        """The clips that contribute to the measure."""
        return np.any(self.among > 0, axis=0)

    def contributions(self) -> Float[np.ndarray, "S N"]:
        """What each clip contributes: the mean over clips is the value of the seed.

        For a share of all segments it is the share within the clip. Where clips weigh differently,
        as in an F1, it is the linear part of what one more such clip would change.
        """
        among = self.among.mean(axis=1, keepdims=True)
        if not among.all():  # a seed without any, as an F1 of nothing
            among = np.where(among > 0, among, 1)
        value = self.hits.mean(axis=1, keepdims=True) / among
        return value + (self.hits - value * self.among) / among


def shares(saved: SavedPredictions, measure: str) -> Shares:
    """A measure of `MEASURES` on all clips."""
    predicted, actual = np.stack([*saved.labels.values()]), saved.actual
    background = len(saved.categories)
    is_event, found = actual != background, predicted != background
    every = np.ones(predicted.shape[:2])
    if measure == "accuracy":
        return Shares((predicted == actual).sum(axis=2), every * actual.shape[1])
    if measure == "category_accuracy":
        truth = clip_categories(actual, background)
        right = np.stack([*saved.clip_category.values()]) == truth
        return Shares(right & (truth >= 0), every * (truth >= 0))
    if measure == "event_f1":
        among = found.sum(axis=2) + is_event.sum(axis=1)
        return Shares(2 * (found & is_event).sum(axis=2), among)
    if measure == "background_recall":
        return Shares((~found & ~is_event).sum(axis=2), every * (~is_event).sum(axis=1))
    raise ValueError(f"expected one of {', '.join(MEASURES)}, got {measure!r}")


def recall(saved: SavedPredictions, label: int) -> Shares:
    """The share of the segments with this label, a category or background, that get it."""
    right = np.stack([*saved.labels.values()]) == saved.actual
    is_label = saved.actual == label
    among = np.ones(right.shape[:2]) * is_label.sum(axis=1)
    return Shares((right & is_label).sum(axis=2), among)


def right_segments(saved: SavedPredictions) -> Int[np.ndarray, "S N"]:
    """How many segments of each clip every seed gets right."""
    return (np.stack([*saved.labels.values()]) == saved.actual).sum(axis=2)

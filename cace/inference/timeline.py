"""What a model finds in a video, second by second, and the events that follow from it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from cace.conventions import THRESHOLD
from cace.evaluation.accuracy import segment_predictions
from cace.evaluation.metrics import events


class Decision(NamedTuple):
    """Probabilities of each second."""

    relevance: Float[np.ndarray, " S"]  # of an event
    category: Float[np.ndarray, "S C"]  # of each category, if there is an event


class TimedEvent(NamedTuple):
    """A stretch of a video in which one category is visible and audible."""

    category: str
    start: float  # seconds
    end: float  # seconds, exclusive
    confidence: float  # in [0, 1]: mean over its seconds of relevance times category probability


class Lane(NamedTuple):
    """What a method knows of each second beyond its decision, such as the gate of CACE-Net."""

    meaning: str
    values: Float[np.ndarray, " S"]  # in (0, 1)


class Timeline(NamedTuple):
    """What a model finds in a video of S seconds; arrays have one entry per second."""

    file: Path
    seconds: float  # length that was analysed; the last second may be incomplete
    categories: tuple[str, ...]
    decision: Decision
    without_sound: Decision  # the same with the audio features silenced
    without_picture: Decision  # with the visual features silenced
    lanes: dict[str, Lane]  # what else the method knows, by name
    attention: Float[np.ndarray, "S H W"] | None  # where sound guides vision to; sums to 1
    view: tuple[float, float, float, float]  # left, top, width, height of what encoders read,
    # as shares of the picture; it is what the attention's grid covers
    remarks: tuple[str, ...]
    model: str  # in one line
    starts_at: float = (
        0.0  # seconds that players show at its start; all times here count from there
    )

    def labels(self, threshold: float = THRESHOLD) -> Int[np.ndarray, " S"]:
        """Index of the category of each second, or C for background.

        threshold: θ of section 3.5: an event is a second whose relevance is above it.
        """
        likely = self.decision.category.argmax(axis=1)
        # Each second is treated as a clip: in a long video the category changes.
        labels = segment_predictions(
            self.decision.relevance[:, None], likely[:, None], threshold, len(self.categories)
        )
        return labels.squeeze(1)

    def events(self, threshold: float = THRESHOLD, top: int | None = None) -> list[TimedEvent]:
        """Runs of seconds of one category, in the order of time.

        top: only this many, those of the highest confidence.
        """
        confidence = self.decision.relevance * self.decision.category.max(axis=1)
        found = [
            TimedEvent(
                self.categories[event.category],
                float(event.start),
                min(float(event.end), self.seconds),
                float(confidence[event.start : event.end].mean()),
            )
            for event in events(self.labels(threshold), len(self.categories))
        ]
        best = sorted(found, key=lambda event: -event.confidence)[:top]
        return sorted(best, key=lambda event: event.start)

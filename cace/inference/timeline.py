"""What a model says about a video, one second at a time, and the events that follow from it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from cace.evaluation.metrics import events, segment_predictions


class Decision(NamedTuple):
    """What is said of each second."""

    relevance: Float[np.ndarray, " S"]  # probability that it holds an event
    category: Float[np.ndarray, "S C"]  # probability of each category, if it holds one


class TimedEvent(NamedTuple):
    """A stretch of a video in which one category is seen and heard."""

    category: str
    start: float  # seconds
    end: float  # seconds, exclusive
    confidence: float  # in [0, 1]: mean over its seconds of relevance times category probability


class Timeline(NamedTuple):
    """What a model says about a video of S seconds; arrays hold one entry a second."""

    file: Path
    seconds: float  # length of what was looked at; the last second may be cut by it
    categories: tuple[str, ...]
    decision: Decision
    without_sound: Decision  # the same with the audio features silenced
    without_picture: Decision  # with the visual features silenced
    gate: Float[np.ndarray, " S"]  # in (0, 1): both modalities say that something happens
    attention: Float[np.ndarray, "S H W"] | None  # where sound made vision look; sums to 1
    view: tuple[float, float, float, float]  # left, top, width, height that the encoders see,
    # as shares of the picture; the attention's grid lies over it
    remarks: tuple[str, ...]
    model: str  # in one line

    def labels(self, threshold: float = 0.5) -> Int[np.ndarray, " S"]:
        """Index of the category of each second, or C for background.

        threshold: θ of section 3.5: an event is a second whose relevance is above it.
        """
        likely = self.decision.category.argmax(axis=1)
        # Each second is a clip of its own here: in a long video the category changes.
        labels = segment_predictions(
            self.decision.relevance[:, None], likely, threshold, len(self.categories)
        )
        return labels.squeeze(1)

    def events(self, threshold: float = 0.5, top: int | None = None) -> list[TimedEvent]:
        """Runs of seconds of one category, in the order of time.

        top: only so many, those of the highest confidence.
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

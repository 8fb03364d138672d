"""What a model finds in a video, second by second, and the events that follow from it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from cace.conventions import THRESHOLD
from cace.evaluation.accuracy import segment_predictions
from cace.evaluation.metrics import events

SOURCES = {
    "mini": "rendered drawings (source mini)",
    "ave": "the clips of AVE (source ave)",
    "folder": "clips of a folder (source folder)",
    "released": "the released features of AVE (source released)",
}
ONLY_DRAWINGS = (
    "This model knows drawings only: it was trained on rendered clips (source mini). On real "
    "recordings its results are meaningless. Train a model on real clips first."
)


class Training(NamedTuple):
    """What a model was trained on, if its checkpoint contains it."""

    source: str | None = None  # as in data.source; None: unknown
    categories: tuple[str, ...] | None = None  # those that had training clips; None: unknown

    @property
    def warning(self) -> str | None:
        """What a user must know before using the model."""
        return ONLY_DRAWINGS if self.source == "mini" else None

    def described(self, categories: int) -> str:
        """One sentence.

        categories: of the model.
        """
        source = SOURCES.get(self.source or "", self.source or "an unknown source")
        if self.categories is None:
            return f"trained on {source}; which of its {categories} categories had clips is unknown"
        known = f"clips of {len(self.categories)} of its {categories} categories"
        return f"trained on {source}, with {known}: {'; '.join(self.categories)}"


class Decision(NamedTuple):
    """Probabilities of each second."""

    relevance: Float[np.ndarray, " S"]  # of an event
    category: Float[np.ndarray, "S C"]  # of each category, if there is an event


class TimedEvent(NamedTuple):
    """A part of a video in which one category is visible and audible."""

    category: str
    start: float  # seconds
    end: float  # seconds, exclusive
    confidence: float  # in [0, 1]: mean over its seconds of relevance times category probability


class Lane(NamedTuple):
    """Another value that a method gives for each second, such as the gate of CACE-Net."""

    meaning: str
    values: Float[np.ndarray, " S"]  # in (0, 1)


class Timeline(NamedTuple):
    """What a model finds in a video of S seconds; arrays have one entry per second."""

    file: Path
    seconds: float  # length that was processed; the last second may be incomplete
    categories: tuple[str, ...]
    decision: Decision
    without_sound: Decision  # the same with the audio features silenced
    without_picture: Decision  # with the visual features silenced
    lanes: dict[str, Lane]  # other values of the method, by name
    attention: Float[np.ndarray, "S H W"] | None  # where sound guides vision to; sums to 1
    view: tuple[float, float, float, float]  # left, top, width, height of what encoders read,
    # as shares of the picture; it is what the attention's grid covers
    remarks: tuple[str, ...]
    model: str  # in one line
    starts_at: float = 0.0  # seconds that players show at its start, where times here are 0
    training: Training = Training()

    @property
    def known(self) -> Bool[np.ndarray, " C"]:
        """Which categories had training clips; all, if that is unknown."""
        trained = self.training.categories
        return np.array([trained is None or name in trained for name in self.categories], bool)

    def labels(self, threshold: float = THRESHOLD) -> Int[np.ndarray, " S"]:
        """Index of the category of each second, or C for background.

        Only categories that had training clips are named.

        threshold: θ of section 3.5: an event is a second whose relevance is above it.
        """
        likely = np.where(self.known, self.decision.category, -1).argmax(axis=1)
        # Each second is treated as a clip: in a long video the category changes.
        labels = segment_predictions(
            self.decision.relevance[:, None], likely[:, None], threshold, len(self.categories)
        )
        return labels.squeeze(1)

    def events(self, threshold: float = THRESHOLD, top: int | None = None) -> list[TimedEvent]:
        """Runs of seconds of one category, in the order of time.

        top: only this many, those of the highest confidence.
        """
        best_share = np.where(self.known, self.decision.category, 0).max(axis=1)
        confidence = self.decision.relevance * best_share
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

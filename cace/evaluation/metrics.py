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
    segment_f1: float  # events with their category, a segment at a time
    event_level_f1: float  # whole events with their category, found where they overlap enough


EVENT_LEVEL_IOU = 0.5  # overlap over union, in seconds, from which a predicted event is a found one


class Event(NamedTuple):
    """A run of segments of one category."""

    category: int
    start: int  # seconds
    end: int  # exclusive


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
        _f1(_count(says_event & (predicted == labels)), _count(says_event) + _count(is_event)),
        _event_level_f1(predicted, labels, background),
    )


def events(labels: Int[np.ndarray, " T"], background: int) -> list[Event]:
    """Runs of segments of one category, in the order of time."""
    borders = np.flatnonzero(np.diff(labels)) + 1
    runs = zip([0, *borders], [*borders, len(labels)], strict=True)
    return [
        Event(int(labels[start]), int(start), int(end))
        for start, end in runs
        if labels[start] != background
    ]


def _event_level_f1(
    predicted: Int[np.ndarray, "N T"], labels: Int[np.ndarray, "N T"], background: int
) -> float:
    found = said_and_held = 0
    for ours, truth in zip(predicted, labels, strict=True):
        said, held = events(ours, background), events(truth, background)
        # Runs of one category never touch, so at this overlap no event can be found twice.
        found += sum(
            a.category == b.category and _iou(a, b) >= EVENT_LEVEL_IOU for a in said for b in held
        )
        said_and_held += len(said) + len(held)
    return _f1(found, said_and_held)


def _iou(a: Event, b: Event) -> float:
    overlap = max(0, min(a.end, b.end) - max(a.start, b.start))
    return overlap / (a.end - a.start + b.end - b.start - overlap)


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
    both, said, held = _count(says & holds), _count(says), _count(holds)
    return (
        both / said if said else 0.0,
        both / held if held else 0.0,
        _f1(both, said + held),
    )


def _count(hits: Bool[np.ndarray, "N T"]) -> int:
    return int(hits.sum())


def _f1(both: int, said_and_held: int) -> float:
    """Harmonic mean of precision and recall; 0 where nothing is said and nothing held."""
    return 2 * both / said_and_held if said_and_held else 0.0

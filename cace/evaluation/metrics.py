"""All scores of predicted segment labels."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from cace.conventions import CONFIDENCE, RESAMPLES
from cace.evaluation.accuracy import accuracy, category_accuracy, clip_categories, count, f1


class Scores(NamedTuple):
    """How right predicted segment labels are; all in [0, 1]."""

    accuracy: float  # share of segments with the right label, background counted as one
    category_accuracy: float  # share of clips with an event whose category is right
    event_precision: float  # of event against background, whatever the category
    event_recall: float
    event_f1: float
    background_precision: float
    background_recall: float
    background_f1: float
    segment_f1: float  # events with their category, a segment at a time
    event_level_f1: float  # complete events with their category, found if they overlap enough


LENGTHS = ((0, 0), (1, 2), (3, 4), (5, 6), (7, 8), (9, 10))  # seconds of event in a clip
EVENT_LEVEL_IOU = 0.5  # overlap over union, in seconds, from which an event counts as found


class Event(NamedTuple):
    """A run of segments of one category."""

    category: int
    start: int  # seconds
    end: int  # exclusive


def score(
    predicted: Int[np.ndarray, "N T"],
    labels: Int[np.ndarray, "N T"],
    category: Int[np.ndarray, " N"],
    background: int,
) -> Scores:
    """category: predicted for each clip; it counts also if no segment is predicted an event."""
    is_event, found = labels != background, predicted != background
    return Scores(
        accuracy(predicted, labels),
        category_accuracy(category, labels, background),
        *_precision_recall_f1(found, is_event),
        *_precision_recall_f1(~found, ~is_event),
        f1(count(found & (predicted == labels)), count(found) + count(is_event)),
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
    found = predicted_and_true = 0
    for one, other in zip(predicted, labels, strict=True):
        ours, truth = events(one, background), events(other, background)
        # Runs of one category never touch, so at this overlap no event can be found twice.
        found += sum(
            a.category == b.category and _iou(a, b) >= EVENT_LEVEL_IOU for a in ours for b in truth
        )
        predicted_and_true += len(ours) + len(truth)
    return f1(found, predicted_and_true)


def _iou(a: Event, b: Event) -> float:
    overlap = max(0, min(a.end, b.end) - max(a.start, b.start))
    return overlap / (a.end - a.start + b.end - b.start - overlap)


def by_length(
    right: Float[np.ndarray, "N T"], labels: Int[np.ndarray, "N T"], background: int
) -> dict[str, dict[str, float]]:
    """Accuracy and number of clips, by how many seconds of a clip are an event.

    right: 1 or 0 for each segment, or a mean of it over seeds. Lengths without clips are left out.
    """
    seconds = (labels != background).sum(axis=1)
    found = {}
    for low, high in LENGTHS:
        here = (low <= seconds) & (seconds <= high)
        if here.any():
            name = f"{low}" if low == high else f"{low}_to_{high}"
            found[name] = {"accuracy": float(right[here].mean()), "clips": count(here)}
    return found


def interval(per_clip: Float[np.ndarray, " N"]) -> tuple[float, float] | tuple[None, None]:
    """Bootstrap interval of a mean over clips: what other clips of this kind might have given.

    None for a single clip, which gives no information about others.
    """
    if len(per_clip) < 2:
        return None, None
    from scipy.stats import bootstrap  # slow to import; only an interval needs it

    resampled = bootstrap(
        (per_clip,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=0,
    )
    low, high = resampled.confidence_interval
    return float(low), float(high)


def always_background(labels: Int[np.ndarray, "N T"], background: int) -> float:
    """Accuracy of calling every segment background."""
    return float((labels == background).mean())


def never_background(labels: Int[np.ndarray, "N T"], background: int) -> float:
    """Accuracy of knowing every clip's category and calling every segment an event."""
    return float((labels == clip_categories(labels, background)[:, None]).mean())


def _precision_recall_f1(
    predicted: Bool[np.ndarray, "N T"], true: Bool[np.ndarray, "N T"]
) -> tuple[float, float, float]:
    both = count(predicted & true)
    return (
        both / count(predicted) if predicted.any() else 0.0,
        both / count(true) if true.any() else 0.0,
        f1(both, count(predicted) + count(true)),
    )

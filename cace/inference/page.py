"""The page of one video: its events, their times, and what the model based them on."""

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jaxtyping import Bool, Float

from cace.conventions import THRESHOLD
from cace.inference.timeline import Decision, TimedEvent, Timeline
from cace.report import render

BEST = 3  # categories of a second that the page names
MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo",
}


def video_page(
    timeline: Timeline,
    *,
    threshold: float = THRESHOLD,
    events: Sequence[TimedEvent] | None = None,
    truth: Sequence[TimedEvent] | None = None,
    embed: bool = False,
    link: str | None = None,
) -> str:
    """One HTML file with the video, the timeline under it, and the attention over the picture.

    threshold: θ: an event is a second whose relevance is above it.
    events: those to show; None: all of them.
    truth: the true events, if they are known; their confidence is not used.
    embed: the video goes into the page, at 4/3 of its size; else the page links to it.
    link: path of the video, relative to the page's folder; None: both are in one folder.
    """
    events = timeline.events(threshold) if events is None else events
    return render(
        "video.html",
        "cace.inference",
        name=name_text(timeline.file.name),
        source=data_url(timeline.file) if embed else url(link or timeline.file.name),
        timeline=timeline,
        events=events,
        truth=truth,
        agreement=None if truth is None else _agreement(timeline, events, truth),
        threshold=threshold,
        data={
            "seconds": timeline.seconds,
            "starts_at": timeline.starts_at,
            "threshold": threshold,
            "categories": timeline.categories,
            "events": _spans(events),
            "truth": None if truth is None else _spans(truth),
            "both": _decision(timeline.decision, timeline.known),
            "without_sound": _decision(timeline.without_sound, timeline.known),
            "without_picture": _decision(timeline.without_picture, timeline.known),
            "lanes": {name: _rounded(lane.values) for name, lane in timeline.lanes.items()},
            "attention": None if timeline.attention is None else _maps(timeline.attention),
            "view": timeline.view,
        },
        clock=clock,
    )


def _spans(events: Sequence[TimedEvent]) -> list[tuple[str, float, float]]:
    return [(event.category, event.start, event.end) for event in events]


def _decision(decision: Decision, known: Bool[np.ndarray, " C"]) -> dict[str, Any]:
    """Relevance, and the best categories as pairs of index and probability, of each second.

    known: the categories that may be named.
    """
    named = min(BEST, int(known.sum()))
    order = np.argsort(np.where(known, -decision.category, 1), axis=1, kind="stable")[:, :named]
    shares = _rounded(np.take_along_axis(decision.category, order, axis=1))
    pairs = [list(zip(*second, strict=True)) for second in zip(order.tolist(), shares, strict=True)]
    return {"relevance": _rounded(decision.relevance), "best": pairs}


def _maps(attention: Float[np.ndarray, "S H W"]) -> dict[str, Any]:
    """Each second's map, one byte per cell with the peak at 255; ratio of the peak to the mean."""
    peaks = attention.max(axis=(1, 2), keepdims=True)
    levels = np.round(255 * attention / peaks).astype(np.uint8)
    _, height, width = attention.shape
    return {
        "height": height,
        "width": width,
        "levels": base64.b64encode(levels.tobytes()).decode(),
        "peaks": np.round(peaks.ravel().astype(float) * height * width, 1).tolist(),
    }


def _rounded(values: np.ndarray) -> Any:
    return np.round(values.astype(float), 3).tolist()


def _agreement(
    timeline: Timeline, events: Sequence[TimedEvent], truth: Sequence[TimedEvent]
) -> int:
    """Seconds in the middle of which the two agree."""
    starts = np.arange(len(timeline.decision.relevance))
    middles = (starts + np.minimum(starts + 1, timeline.seconds)) / 2
    pairs = zip(_categories_at(events, middles), _categories_at(truth, middles), strict=True)
    return sum(found == true for found, true in pairs)


def _categories_at(spans: Sequence[TimedEvent], times: Float[np.ndarray, " S"]) -> list[set[str]]:
    found: list[set[str]] = [set() for _ in times]
    for span in spans:
        for at in np.flatnonzero((span.start <= times) & (times < span.end)):
            found[at].add(span.category)
    return found


def clock(seconds: float) -> str:
    """0:07, 1:02:03, and 0:09.6 for a part of a second."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:02.0f}" if rest == int(rest) else f"{rest:04.1f}"
    return f"{hours}:{minutes:02}:{text}" if hours else f"{minutes}:{text}"


def name_text(name: str) -> str:
    """A file's name as text; bytes that are not UTF-8 are replaced."""
    return os.fsencode(name).decode(errors="replace")


def url(path: str) -> str:
    """A path as a link; its bytes may be no UTF-8."""
    return quote(os.fsencode(Path(path).as_posix()))


def data_url(path: Path) -> str:
    """A video as text in a page."""
    media_type = MEDIA_TYPES.get(path.suffix.lower(), "application/octet-stream")
    return f"data:{media_type};base64,{base64.b64encode(path.read_bytes()).decode()}"

"""The windows of clips in which an event is searched for, and how good a choice of windows is."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from cace.evaluation.metrics import interval


class Partial(NamedTuple):
    """The clips with one event that is shorter than the clip: only these can be scored."""

    rows: Int[np.ndarray, " n"]  # of the feature store
    start: Int[np.ndarray, " n"]  # second in which the event starts
    length: Int[np.ndarray, " n"]  # of the event, in seconds
    segments: int  # T, of a clip
    skipped: dict[str, int]  # clips that are left out, by reason

    @property
    def starts(self) -> Bool[np.ndarray, "n T"]:
        """Where a window of the event's length can start."""
        return np.arange(self.segments) <= (self.segments - self.length)[:, None]

    @property
    def ends_early(self) -> Bool[np.ndarray, " n"]:
        """Whether the event ends before the clip. If not, it is in the last window."""
        return self.start + self.length < self.segments

    @property
    def inside(self) -> Bool[np.ndarray, " n"]:
        """Whether the event starts after the clip does, and ends before it."""
        return self.ends_early & (self.start > 0)


def partial_events(event: Bool[np.ndarray, "N T"], rows: Int[np.ndarray, " n"]) -> Partial:
    """The clips that can be scored among some rows of a feature store.

    event: which segments are an event, of all its rows.
    """
    here = event[rows]
    segments = here.shape[1]
    length = here.sum(axis=1)
    start = here.argmax(axis=1)
    last = segments - 1 - here[:, ::-1].argmax(axis=1)
    reasons = {
        "no event": length == 0,
        "event as long as the clip": length == segments,
        "event with a gap": (length > 0) & (last - start + 1 > length),
    }
    use = ~np.any(list(reasons.values()), axis=0)
    skipped = {reason: int(which.sum()) for reason, which in reasons.items()}
    return Partial(rows[use], start[use], length[use], segments, skipped)


def one_hot(starts: Int[np.ndarray, " n"], clips: Partial) -> Bool[np.ndarray, "n T"]:
    """A chosen start of each clip, in the form that `measures` reads."""
    return starts[:, None] == np.arange(clips.segments)


def measures(chosen: Float[np.ndarray, "S n T"], clips: Partial) -> dict[str, dict[str, Any]]:
    """How good the chosen windows are: measures in [0, 1], with a 95 % interval over clips.

    chosen: of S seeds, the probability of each start; one-hot if it is one window.
    Returns: `exact`, the share of clips with exactly the right start, as published; the same on
        `ends_early`, the clips whose event ends before the clip, where always choosing the last
        window gets 0; the same on those with the event `inside`, where always choosing the first
        second gets 0 too; and `overlap`, the mean over clips of the seconds that both windows
        share over the seconds of their union. Each has `mean`, `std` (between seeds; None for one),
        `low`, `high` (None for a single clip) and `clips`; `mean` is None without clips.
    """
    exact = chosen[:, np.arange(len(clips.rows)), clips.start]
    overlap = (chosen * _overlaps(clips)).sum(axis=2)
    per_clip = {
        "exact": exact,
        "ends_early": exact[:, clips.ends_early],
        "inside": exact[:, clips.inside],
        "overlap": overlap,
    }
    return {name: _measure(values) for name, values in per_clip.items()}


def _overlaps(clips: Partial) -> Float[np.ndarray, "n T"]:
    """Shared seconds over those of the union, for the event and the window at each start."""
    apart = np.abs(np.arange(clips.segments) - clips.start[:, None])
    length = clips.length[:, None]
    shared = np.maximum(0, length - apart)
    return shared / (2 * length - shared)


def _measure(values: Float[np.ndarray, "S n"]) -> dict[str, Any]:
    count = values.shape[1]
    if not count:
        return {"mean": None, "std": None, "low": None, "high": None, "clips": 0}
    seeds = values.mean(axis=1)
    low, high = interval(values.mean(axis=0))
    std = float(seeds.std(ddof=1)) if len(seeds) > 1 else None
    return {"mean": float(seeds.mean()), "std": std, "low": low, "high": high, "clips": count}

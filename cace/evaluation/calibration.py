"""Does a certainty of 80 % mean that 80 % are right?"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

BINS = 10  # of equal width


class Bin(NamedTuple):
    """Segments of about the same certainty."""

    low: float
    high: float
    segments: int
    certainty: float | None  # mean; None without segments
    accuracy: float | None


def certainty(
    relevance: Float[np.ndarray, "N T"],
    confidence: Float[np.ndarray, "N T"],
    is_event: Bool[np.ndarray, "N T"],
) -> Float[np.ndarray, "N T"]:
    """The probability that a localizer gives to the label that it predicts.

    confidence: of the category, if there is an event; is_event: predicted as one.
    """
    return np.where(is_event, relevance * confidence, 1 - relevance)


def reliability(
    certain: Float[np.ndarray, "*shape"], right: Bool[np.ndarray, "*shape"]
) -> list[Bin]:
    """The reliability curve: how many are right, of those with a certainty from low to high.

    A value on a border belongs to the upper bin, and 1 to the last.
    """
    places = np.minimum((certain * BINS).astype(int), BINS - 1)
    curve = []
    for place in range(BINS):
        here = places == place
        some = here.any()
        curve.append(
            Bin(
                place / BINS,
                (place + 1) / BINS,
                int(here.sum()),
                float(certain[here].mean()) if some else None,
                float(right[here].mean()) if some else None,
            )
        )
    return curve


def expected_calibration_error(curve: list[Bin]) -> float:
    """Mean distance between certainty and accuracy of the bins, weighted by their segments."""
    total = sum(one.segments for one in curve)
    return sum(
        one.segments / total * abs(one.certainty - one.accuracy)
        for one in curve
        if one.certainty is not None and one.accuracy is not None
    )

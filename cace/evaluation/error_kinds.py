"""What is wrong about a wrong segment: each is an error of exactly one kind."""

import numpy as np
from jaxtyping import Bool, Int

# In this order: a segment is of the first kind that fits.
KINDS = {
    "wrong_category": "an event is there, and another category was predicted",
    "boundary": "beside a segment in which the same category is right: the border is misplaced",
    "missed_event": "an event is there, and background was predicted",
    "invented_event": "background is there, and an event was predicted",
}


def error_kinds(
    predicted: Int[np.ndarray, "N T"],
    labels: Int[np.ndarray, "N T"],
    background: int,
    boundary: int,
) -> dict[str, Bool[np.ndarray, "N T"]]:
    """The wrong segments of each kind of `KINDS`; a wrong segment is in exactly one of them.

    boundary: segments; within so many of it the same category must be right for an error of this
        kind. 0: there is no such error.
    """
    is_event, found = labels != background, predicted != background
    wrong_category = is_event & found & (predicted != labels)
    one_sided = is_event != found  # an event on only one of the two sides
    category = np.where(is_event, labels, predicted)
    right_beside = np.zeros_like(one_sided)
    for distance in range(1, min(boundary, labels.shape[1] - 1) + 1):
        right = np.where(predicted == labels, labels, -1)
        right_beside[:, distance:] |= right[:, :-distance] == category[:, distance:]
        right_beside[:, :-distance] |= right[:, distance:] == category[:, :-distance]
    misplaced = one_sided & right_beside
    return {
        "wrong_category": wrong_category,
        "boundary": misplaced,
        "missed_event": one_sided & is_event & ~misplaced,
        "invented_event": one_sided & found & ~misplaced,
    }


def error_shares(
    predicted: Int[np.ndarray, "N T"],
    labels: Int[np.ndarray, "N T"],
    background: int,
    boundary: int,
) -> dict[str, float]:
    """The share of all segments that each kind makes wrong; they add up to 1 - accuracy."""
    kinds = error_kinds(predicted, labels, background, boundary)
    return {name: float(wrong.mean()) for name, wrong in kinds.items()}

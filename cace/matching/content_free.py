"""Rules that choose a window without looking at the clip: every score is compared with them."""

import numpy as np
from jaxtyping import Float, Int

from cace.matching.windows import Partial, one_hot


def content_free(train: Partial, test: Partial) -> dict[str, Float[np.ndarray, "n T"]]:
    """What each rule chooses on test: the probability of each start, by the name of the rule.

    train: the last rule counts the starts of these events.
    """
    possible = test.starts
    return {
        "random start": possible / possible.sum(axis=1, keepdims=True),
        "always the first second": one_hot(np.zeros_like(test.start), test).astype(float),
        "always the last window": one_hot(test.segments - test.length, test).astype(float),
        "most frequent start in train": one_hot(_frequent(train)[test.length], test).astype(float),
    }


def _frequent(train: Partial) -> Int[np.ndarray, " lengths"]:
    """The most frequent start of events of each length; of equals the first, 0 without events."""
    counts = np.zeros((train.segments + 1, train.segments), int)
    np.add.at(counts, (train.length, train.start), 1)
    return counts.argmax(axis=1)

"""What is wrong about a run, and whether its certainty can be trusted; over its seeds."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from cace.evaluation.calibration import Bin, certainty, expected_calibration_error, reliability
from cace.evaluation.error_kinds import KINDS, error_kinds
from cace.evaluation.metrics import by_length
from cace.evaluation.predict import Predictions


class Analysis(NamedTuple):
    """Of N clips."""

    metrics: dict[str, Any]  # errors, accuracy_without, by_event_seconds, calibration
    errors: dict[str, Int[np.ndarray, " N"]]  # wrong segments of each kind in each clip, all seeds
    reliability: list[Bin]


def analyse(
    seeds: Sequence[Predictions], labels: Int[np.ndarray, "N T"], background: int, boundary: int
) -> Analysis:
    """Counts the errors by kind, the accuracy by length of the event, and the calibration.

    seeds: the predictions of each, on the same clips.
    boundary: as for `error_kinds`.
    """
    right = np.stack([found.labels == labels for found in seeds])
    kinds = [error_kinds(found.labels, labels, background, boundary) for found in seeds]
    errors = {name: np.sum([of_seed[name] for of_seed in kinds], axis=(0, 2)) for name in KINDS}
    shares = {name: float(counts.sum() / right.size) for name, counts in errors.items()}
    curve = reliability(
        np.stack([certainty(f.relevance, f.confidence, f.labels != background) for f in seeds]),
        right,
    )
    accuracy = float(right.mean())
    metrics = {
        "errors": shares,
        "accuracy_without": {name: accuracy + share for name, share in shares.items()},
        "by_event_seconds": by_length(right.mean(axis=0), labels, background),
        "calibration": {"expected_error": expected_calibration_error(curve)},
    }
    return Analysis(metrics, errors, curve)

"""How far a localizer's certainty can be trusted."""

import numpy as np
import pytest

from cace.evaluation.calibration import certainty, expected_calibration_error, reliability
from cace.evaluation.metrics import by_length


def test_an_event_is_as_certain_as_its_category_and_background_as_it_is_irrelevant():
    relevance, confidence = np.array([[0.9, 0.2]]), np.array([[0.5, 0.5]])
    found = certainty(relevance, confidence, np.array([[True, False]]))
    np.testing.assert_allclose(found, [[0.45, 0.8]])


def test_the_curve_counts_what_is_right_in_each_bin():
    curve = reliability(np.array([0.0, 0.05, 0.1, 1.0]), np.array([True, False, True, True]))
    assert [(one.low, one.segments) for one in curve if one.segments] == [
        (0, 2),
        (0.1, 1),
        (0.9, 1),
    ]
    assert curve[0].certainty == pytest.approx(0.025) and curve[0].accuracy == 0.5
    assert curve[5].certainty is None and curve[5].accuracy is None
    # (2 * |0.025 - 0.5| + |0.1 - 1| + |1 - 1|) / 4
    assert expected_calibration_error(curve) == pytest.approx(0.4625)


def test_draws_of_the_stated_certainty_are_calibrated():
    rng = np.random.default_rng(0)
    stated = rng.random(100_000)
    right = rng.random(100_000) < stated
    assert expected_calibration_error(reliability(stated, right)) < 0.01
    assert expected_calibration_error(reliability(stated, ~right)) > 0.4


def test_accuracy_is_told_apart_by_how_long_the_event_is():
    labels = np.full((4, 10), 2)
    labels[1, 3:5] = labels[2, :] = labels[3, :9] = 0
    right = np.zeros((4, 10))
    right[1, :5] = right[2, :] = 1
    assert by_length(right, labels, 2) == {
        "0": {"accuracy": 0.0, "clips": 1},
        "1_to_2": {"accuracy": 0.5, "clips": 1},
        "9_to_10": {"accuracy": 0.5, "clips": 2},
    }

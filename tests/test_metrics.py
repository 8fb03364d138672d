import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cace.metrics import (
    always_background,
    clip_categories,
    never_background,
    score,
    segment_predictions,
)

BACKGROUND = 3
LABELS = np.array([[3, 0, 0, 3], [1, 1, 1, 1], [3, 3, 3, 3]])
CATEGORY = np.array([0, 2, 1])

labels = arrays(int, (4, 5), elements=st.integers(0, BACKGROUND))


def test_a_segment_is_an_event_strictly_above_the_threshold():
    relevance = np.array([[0.5, 0.51, 0.49, 1.0]])
    found = segment_predictions(relevance, np.array([2]), 0.5, BACKGROUND)
    assert found.tolist() == [[3, 2, 3, 2]]


def test_scores_counted_by_hand():
    predicted = np.array([[0, 0, 3, 3], [2, 2, 3, 2], [3, 1, 3, 3]])
    scores = score(predicted, LABELS, CATEGORY, BACKGROUND)
    assert scores.accuracy == 5 / 12
    assert scores.category_accuracy == 1 / 2  # the third clip has no event
    # 6 segments called events, 4 of them rightly; 6 are.
    assert (scores.event_precision, scores.event_recall) == (4 / 6, 4 / 6)
    assert scores.event_f1 == pytest.approx(4 / 6)
    assert (scores.background_precision, scores.background_recall) == (4 / 6, 4 / 6)


def test_a_clip_with_two_categories_counts_as_the_larger():
    assert clip_categories(np.array([[3, 0, 2], [3, 3, 3]]), BACKGROUND).tolist() == [2, -1]


def test_trivial_baselines_counted_by_hand():
    assert always_background(LABELS, BACKGROUND) == 6 / 12
    assert never_background(LABELS, BACKGROUND) == 6 / 12


@given(labels)
def test_the_truth_scores_one(truth):
    category = clip_categories(truth, BACKGROUND)
    scores = score(truth, truth, category, BACKGROUND)
    assert scores.accuracy == 1
    assert scores.event_f1 == float((truth != BACKGROUND).any())


@given(labels, labels)
def test_f1_is_the_harmonic_mean(predicted, truth):
    scores = score(predicted, truth, clip_categories(truth, BACKGROUND), BACKGROUND)
    precision, recall = scores.event_precision, scores.event_recall
    expected = 2 * precision * recall / (precision + recall) if precision + recall else 0
    assert scores.event_f1 == pytest.approx(expected)


@given(labels)
def test_the_trivial_baselines_share_all_segments_where_clips_have_one_category(truth):
    single = np.where(truth == BACKGROUND, BACKGROUND, 1)
    total = always_background(single, BACKGROUND) + never_background(single, BACKGROUND)
    assert total == pytest.approx(1)

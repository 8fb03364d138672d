import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cace.evaluation.accuracy import clip_categories, segment_predictions
from cace.evaluation.metrics import (
    always_background,
    events,
    never_background,
    score,
)

BACKGROUND = 3
LABELS = np.array([[3, 0, 0, 3], [1, 1, 1, 1], [3, 3, 3, 3]])
CATEGORY = np.array([0, 2, 1])

labels = arrays(int, (4, 5), elements=st.integers(0, BACKGROUND))


def test_a_segment_is_an_event_strictly_above_the_threshold():
    relevance = np.array([[0.5, 0.51, 0.49, 1.0]])
    found = segment_predictions(relevance, np.array([[2, 2, 2, 2]]), 0.5, BACKGROUND)
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


def test_an_event_is_a_run_of_one_category():
    found = events(np.array([0, 0, 3, 1, 1, 2, 3, 2]), BACKGROUND)
    assert found == [(0, 0, 2), (1, 3, 5), (2, 5, 6), (2, 7, 8)]


@pytest.mark.parametrize(
    ("predicted", "f1"),
    [
        ([3, 0, 0, 0, 0, 3], 1.0),
        ([3, 0, 0, 3, 3, 3], 1.0),  # 2 of 4 seconds: an overlap of one half is enough
        ([3, 3, 3, 3, 0, 0], 0.0),  # 1 of 5
        ([3, 1, 1, 1, 1, 3], 0.0),  # another category
        ([0, 3, 0, 0, 0, 3], 2 / 3),  # the longer part is found, the other one too many
        ([3, 3, 3, 3, 3, 3], 0.0),
    ],
)
def test_an_event_is_found_where_half_of_it_overlaps(predicted, f1):
    truth, predicted = np.array([[3, 0, 0, 0, 0, 3]]), np.array([predicted])
    scores = score(predicted, truth, np.array([0]), BACKGROUND)
    assert scores.event_level_f1 == pytest.approx(f1)


def test_segment_f1_counts_an_event_of_another_category_as_false_and_as_missed():
    truth, predicted = np.array([[0, 0, 3, 3]]), np.array([[0, 1, 1, 3]])
    # One right of three predicted and two true.
    assert score(predicted, truth, np.array([0]), BACKGROUND).segment_f1 == pytest.approx(2 / 5)


@given(labels, labels)
def test_no_event_is_found_twice(predicted, truth):
    scores = score(predicted, truth, clip_categories(truth, BACKGROUND), BACKGROUND)
    assert 0 <= scores.event_level_f1 <= 1
    assert 0 <= scores.segment_f1 <= scores.event_f1 or scores.event_f1 == 0

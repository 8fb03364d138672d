"""Differences between runs: their intervals contain the truth, their tests err as they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cace.comparison.measures import MEASURES, Shares, recall, shares
from cace.comparison.results import difference
from cace.comparison.statistics import compare, holm
from cace.evaluation.metrics import score
from cace.evaluation.prediction_files import SavedPredictions
from tests.comparisons import draw, draw_f1, saved


def shares_of(*right_segments):
    hits = np.array(right_segments)
    return Shares(hits, np.full(hits.shape, 10))


def trials(count, truth, drawn, resamples):
    """How often the interval contains the truth, and how often the test finds a difference."""
    random = np.random.default_rng(0)
    found = [compare(*drawn(random), resamples=resamples, seed=k) for k in range(count)]
    contains = np.mean([one.low <= truth <= one.high for one in found])
    return contains, np.mean([one.p < 0.05 for one in found])


WORLDS = {
    "48 clips, one seed": {"clips": 48, "seeds": (1, 1)},
    "48 clips, three seeds": {"clips": 48, "seeds": (3, 3), "between_seeds": 0.01},
    "48 clips, right or wrong as a whole": {"clips": 48, "seeds": (1, 1), "blocks": 1},
    "402 clips, three equal seeds": {"clips": 402, "seeds": (3, 3)},
    "402 clips, three seeds": {"clips": 402, "seeds": (3, 3), "between_seeds": 0.01},
    "402 clips, other numbers of seeds": {"clips": 402, "seeds": (5, 3), "between_seeds": 0.01},
}


@pytest.mark.slow
@pytest.mark.parametrize("truth", [0, 0.02])
@pytest.mark.parametrize("world", WORLDS)
def test_of_1000_intervals_93_to_97_percent_contain_the_truth(world, truth):
    drawn = lambda random: draw(random, difference=truth, **WORLDS[world])  # noqa: E731
    contains, rejects = trials(1_000, truth, drawn, resamples=1_000)
    assert 0.93 <= contains <= 0.97
    if not truth:
        assert 0.03 <= rejects <= 0.07


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(1, 1), (3, 3)])
def test_of_1000_intervals_of_an_f1_93_to_97_percent_contain_the_truth(seeds):
    contains, rejects = trials(1_000, 0, lambda r: draw_f1(r, clips=48, seeds=seeds), 1_000)
    assert 0.93 <= contains <= 0.97
    assert 0.03 <= rejects <= 0.07


# Of 200 draws, 95 % and 5 % have a standard deviation of 1.5 points.
@pytest.mark.parametrize("between_seeds", [0, 0.03])
def test_intervals_contain_a_known_difference_and_tests_find_none_where_none_is(between_seeds):
    world = {"clips": 48, "seeds": (3, 3), "between_seeds": between_seeds}
    contains, rejects = trials(200, 0, lambda random: draw(random, **world), resamples=400)
    assert 0.91 <= contains <= 0.985
    assert 0.005 <= rejects <= 0.09


def test_a_p_value_counts_the_swaps_that_give_such_a_difference():
    # Of the 2^4 ways to swap, only none and all give 4 more right segments.
    assert compare(shares_of([5, 5, 5, 5]), shares_of([6, 6, 6, 6])).p == 2 / 16
    # Changes of 2, 1, 1 and 1: as large as their sum of 3 with -1, +-5 and both signs of 3.
    found = compare(shares_of([5, 5, 5, 5]), shares_of([7, 6, 6, 4]))
    assert found.p == (2 * (1 + 3)) / 16


def test_identical_runs_are_equal():
    found = difference(saved((0, 1), right=0.7), saved((0, 1), right=0.7))
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert found.verdict == "equal"


def test_one_clip_tells_nothing_about_others():
    found = compare(shares_of([3]), shares_of([9]))
    assert found.difference == pytest.approx(0.6)
    assert (found.low, found.high, found.p, found.verdict) == (None, None, 1, "cannot tell")


def test_a_measure_of_nothing_is_0_as_in_the_metrics_of_a_run():
    every_second = SavedPredictions(
        ("Bark",), ("a", "b"), (0, 0), np.zeros((2, 10), int),
        {0: np.zeros((2, 10), int)}, {0: np.zeros(2, int)},
    )  # fmt: skip
    found = difference(every_second, every_second, "background_recall")
    scores = score(every_second.labels[0], every_second.actual, np.zeros(2, int), 1)
    assert found.a.mean == found.b.mean == scores.background_recall == 0
    assert (found.difference, found.low, found.p, found.clips) == (0, None, 1, 0)


def test_few_clips_that_differ_do_not_make_a_run_better():
    # All four in one direction: the interval excludes 0, but p = 2 / 2^4.
    before, after = np.full(48, 5), np.full(48, 5)
    after[:4] = 9
    found = compare(shares_of(before), shares_of(after))
    assert found.low > 0
    assert (found.p, found.verdict) == (0.125, "cannot tell")


def test_the_needed_clips_would_make_the_interval_exclude_zero():
    # Changes of +4 and -3 of 10 segments: mean 0.05, deviation 0.35 (with n - 1).
    before, after = np.full(100, 5), np.tile([9, 2], 50)
    found = compare(shares_of(before), shares_of(after))
    assert found.difference == pytest.approx(0.05)
    deviation = np.std((after - before) / 10, ddof=1)
    assert found.needed == pytest.approx((1.96 * deviation / 0.05) ** 2, abs=1)
    larger = compare(shares_of(np.tile(before, 2)), shares_of(np.tile(after, 2)))
    assert found.low < 0 < larger.low


def test_seeds_that_differ_widen_the_interval_and_clips_cannot_replace_them():
    clips = np.random.default_rng(0).integers(3, 7, 400)
    alike = compare(shares_of(clips, clips, clips), shares_of(clips + 1, clips + 1, clips))
    apart = compare(shares_of(clips, clips, clips), shares_of(clips + 3, clips + 2, clips - 3))
    assert alike.difference == pytest.approx(apart.difference)
    assert apart.high - apart.low > 2 * (alike.high - alike.low)
    assert apart.needed is None


def test_numbers_of_seeds_may_differ():
    found = compare(shares_of([5, 6], [7, 8], [6, 7]), shares_of([9, 9]))
    assert found.a.mean == pytest.approx(0.65)
    assert (found.a.deviation, found.b.deviation) == (pytest.approx(0.1), None)
    assert found.difference == pytest.approx(0.25)


def test_p_values_are_corrected_as_holm_does():
    # The smallest three times, the next twice, the largest once; none below one before it.
    assert holm([0.04, 0.01, 0.03]) == [0.06, 0.03, 0.06]
    assert holm([0.5, 0.9]) == [1.0, 1.0]


LABELS = st.lists(
    st.lists(st.integers(0, 3), min_size=10, max_size=10), min_size=5, max_size=5
).map(np.array)


@given(LABELS, LABELS, st.lists(st.integers(0, 2), min_size=5, max_size=5).map(np.array))
def test_contributions_of_clips_have_the_measure_as_their_mean(actual, predicted, category):
    names, clips = ("a", "b", "c"), tuple("vwxyz")
    run = SavedPredictions(names, clips, (0,) * 5, actual, {0: predicted}, {0: category})
    expected = score(predicted, actual, category, 3)._asdict()
    for measure in MEASURES:
        mean = shares(run, measure).contributions().mean()
        assert mean == pytest.approx(expected[measure], abs=1e-12)
    is_a = actual == 0
    if is_a.any():
        right = (predicted == 0)[is_a].mean()
        assert recall(run, 0).contributions().mean() == pytest.approx(right, abs=1e-12)


def test_the_test_of_an_f1_swaps_runs_within_clips():
    random = np.random.default_rng(3)
    a, b = draw_f1(random, clips=60, seeds=(1, 1))
    better = np.minimum(b.hits + (np.arange(60) % 3 == 0), b.among)
    b = b._replace(hits=better)
    swapped = random.random((20_000, 60)) < 0.5

    def f1(one, other):
        hits, among = (np.where(swapped, y, x).sum(axis=1) for x, y in zip(one, other, strict=True))
        return hits / among

    differences = f1(b, a) - f1(a, b)
    observed = b.hits.sum() / b.among.sum() - a.hits.sum() / a.among.sum()
    expected = np.mean(np.abs(differences) >= observed - 1e-12)
    assert compare(a, b).p == pytest.approx(expected, abs=0.02)
    assert 0.1 < expected < 0.5


def test_few_clips_with_several_seeds_have_a_possible_interval():
    a = shares_of([3, 8, 4, 1], [3, 10, 7, 3], [3, 6, 4, 3])
    b = shares_of([0, 7, 4, 0], [2, 5, 4, 2], [2, 8, 3, 1])
    found = compare(a, b)
    # Such shares cannot differ by all. Their seeds have 4 degrees of freedom, and not 0.6.
    assert -1 < found.low < found.high < 1

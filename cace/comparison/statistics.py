"""The difference of two runs on the same clips, with its interval and its p-value.

Clips are resampled, each in both runs and with all its seeds: this shows what other clips might
give. Two to five seeds are too few to be resampled too: in simulations with three, such intervals
contained the truth in 74 to 94 % of cases instead of 95 %. Instead, what seeds differ beyond what
their clips explain widens the interval, with Student's t: 93 to 97 %. With one seed a run this is
unknown, and the result holds for these trained models.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import fdtri, ndtr, ndtri, stdtr, stdtrit

from cace.comparison.measures import Shares
from cace.conventions import CONFIDENCE, RESAMPLES

ALPHA = 1 - CONFIDENCE
AT_ONCE = 1_000  # resamples in memory
DIFFER = 0.25  # p-value of an F test below which seeds count as different
DIGITS = 12  # of differences: a mean over three seeds is not exact


class Value(NamedTuple):
    """A measure of one run."""

    mean: float  # over seeds
    deviation: float | None  # between seeds, of a sample (n - 1); None for a single one


class Difference(NamedTuple):
    """How much larger a measure is in run B than in run A."""

    a: Value
    b: Value
    difference: float  # of the means over seeds
    low: float | None  # ends of the interval; None for a single clip
    high: float | None
    p: float
    clips: int  # that contribute to the measure
    needed: int | None  # clips from which a difference of this size could be told; None: no number

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `cannot tell`, or `equal` if no clip differs."""
        if self.low is None or self.high is None:
            return "cannot tell"
        if self.low == self.high == 0:
            return "equal"
        if self.p < ALPHA and not self.low <= 0 <= self.high:
            return "better" if self.difference > 0 else "worse"
        return "cannot tell"


class _Spread(NamedTuple):
    """Variances of a difference of means."""

    clips: float  # by the choice of clips
    seeds: float  # by the choice of seeds, beyond what their clips explain
    degrees: float  # of freedom, of the sum of both; infinite if seeds add nothing

    @property
    def quantile(self) -> float:
        """Standard errors from the middle of an interval to its ends."""
        below = stdtrit(self.degrees, ALPHA / 2) if self.seeds else ndtri(ALPHA / 2)
        return -float(below)


def compare(a: Shares, b: Shares, *, resamples: int = RESAMPLES, seed: int = 0) -> Difference:
    """The difference of a measure of two runs on the same clips, in the same order.

    The interval is a bootstrap over clips, of the percentiles that are right for small samples
    (Hesterberg 2015, "What teachers should know about the bootstrap", section 5.3). The p-value is
    that of a two-sided permutation test, which swaps the runs within clips.
    """
    used = a.used() | b.used()
    if not used.any():  # as the background recall where all is an event: 0, as in `Scores`
        nothing = Value(0.0, None)
        return Difference(nothing, nothing, 0.0, None, None, 1.0, 0, None)
    ours, theirs = (Shares(s.hits[:, used], s.among[:, used]).contributions() for s in (a, b))
    values = over_seeds(ours), over_seeds(theirs)
    gain = (theirs.mean(axis=0) - ours.mean(axis=0)).round(DIGITS)
    difference = values[1].mean - values[0].mean
    if len(gain) < 2:  # one clip shows nothing of others
        return Difference(*values, difference, None, None, 1.0, len(gain), None)
    if not gain.any():
        return Difference(*values, 0.0, 0.0, 0.0, 1.0, len(gain), None)
    spread = _spread(ours, theirs, gain)
    low, high = _interval(gain, spread, resamples, seed)
    p = _p_value(gain, spread, resamples, seed)
    return Difference(
        *values, difference, low, high, p, len(gain), _needed(difference, len(gain), spread)
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, corrected: all of them together err in at most 5 % of cases.

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, k in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[k]))
        corrected[k] = largest
    return corrected


def over_seeds(contributions: Float[np.ndarray, "S N"]) -> Value:
    """Of what each clip contributes to a measure, with each seed."""
    seeds = contributions.mean(axis=1)
    return Value(float(seeds.mean()), float(seeds.std(ddof=1)) if len(seeds) > 1 else None)


def _spread(
    a: Float[np.ndarray, "S N"], b: Float[np.ndarray, "S2 N"], gain: Float[np.ndarray, " N"]
) -> _Spread:
    """Seeds are taken to deviate alike in both runs.

    Source: variance components of a crossed design, with Satterthwaite's degrees of freedom.
    """
    clips, degrees = len(gain), len(a) + len(b) - 2
    by_clips = float(gain.var(ddof=1)) / clips if np.ptp(gain) else 0.0
    if not degrees:
        return _Spread(by_clips, 0.0, math.inf)
    between = sum(y.mean(axis=1).var() * len(y) for y in (a, b)) / degrees
    rest = [y - y.mean(axis=0) - y.mean(axis=1, keepdims=True) + y.mean() for y in (a, b)]
    within = sum((part**2).sum() for part in rest) / (degrees * (clips - 1)) / clips
    share = 1 / len(a) + 1 / len(b)
    if between <= within * fdtri(degrees, degrees * (clips - 1), 1 - DIFFER):
        return _Spread(by_clips, 0.0, math.inf)
    seeds = float((between - within) * share)
    found = degrees * ((by_clips + seeds) / (between * share)) ** 2
    # A sum of variances has no fewer degrees of freedom than the part that has the fewest.
    return _Spread(by_clips, seeds, max(float(found), min(degrees, clips - 1)))


def _interval(
    gain: Float[np.ndarray, " N"], spread: _Spread, resamples: int, seed: int
) -> tuple[float, float]:
    from scipy.stats import bootstrap  # takes a second to import

    clips, mean = len(gain), float(gain.mean())
    # Percentiles of a small sample: as far out as Student's t has them.
    level = ndtr(stdtrit(clips - 1, ALPHA / 2) * math.sqrt(clips / (clips - 1)))
    low, high = bootstrap(
        (gain,),
        np.mean,
        n_resamples=resamples,
        confidence_level=1 - 2 * level,
        method="percentile",
        batch=AT_ONCE,
        rng=seed,
    ).confidence_interval
    normal, student = -ndtri(ALPHA / 2), spread.quantile
    by_seeds = normal * math.sqrt(spread.seeds)
    below, above = (
        student / normal * math.hypot(end - mean, by_seeds) for end in (float(low), float(high))
    )
    return max(-1.0, mean - below), min(1.0, mean + above)


def _p_value(gain: Float[np.ndarray, " N"], spread: _Spread, resamples: int, seed: int) -> float:
    from scipy.stats import permutation_test

    changed = gain[gain != 0]  # the others change nothing when they are swapped
    if len(changed) == 1:
        return 1.0
    p = permutation_test(
        (changed,),
        lambda gains, axis: gains.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples - 1,
        batch=AT_ONCE,
        rng=seed,
    ).pvalue
    if not spread.seeds:
        return float(p)
    by_swaps = float((gain**2).mean()) / len(gain)  # variance of the mean, if runs are equal
    errors = abs(float(gain.mean())) / math.sqrt(by_swaps + spread.seeds)
    return max(float(p), float(2 * stdtr(spread.degrees, -errors)))


def _needed(difference: float, clips: int, spread: _Spread) -> int | None:
    """Clips with which the interval of a difference of this size would just exclude 0."""
    room = (difference / spread.quantile) ** 2 - spread.seeds
    return math.ceil(clips * spread.clips / room) if room > 0 else None

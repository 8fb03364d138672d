"""All that is said of runs that are compared with a first one."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from cace.comparison.clips import on_same_clips, same_categories
from cace.comparison.measures import MEASURES, recall, right_segments, shares
from cace.comparison.sources import Run
from cace.comparison.statistics import Difference, compare, holm
from cace.evaluation.error_kinds import error_shares
from cace.evaluation.prediction_files import SavedPredictions

SHOWN = 6  # clips that changed most
BOUNDARY = 1  # segments; evaluate.boundary of settings that do not have it


class Category(NamedTuple):
    """The recall of a category, or of background, in two runs."""

    name: str
    recall: Difference
    corrected_p: float  # for the number of categories

    @property
    def tested(self) -> Difference:
        """The difference with the corrected p-value, and so with a corrected verdict."""
        return self.recall._replace(p=self.corrected_p)

    @property
    def verdict(self) -> str:
        """By the corrected p-value."""
        return self.tested.verdict


class Setting(NamedTuple):
    """A setting that differs."""

    name: str  # as `bece.lambda`
    a: Any  # None: the run does not have it
    b: Any


class Stretch(NamedTuple):
    """Segments in a row that are equal."""

    label: str  # `background`, or a category
    seconds: int
    right: bool


class Timeline(NamedTuple):
    """The truth of a clip, or what one seed of a run predicts."""

    name: str
    stretches: list[Stretch]


class Clip(NamedTuple):
    """A clip in which two runs differ."""

    id: str
    row: int
    right_a: float  # segments, the mean over seeds
    right_b: float
    truth: Timeline
    a: list[Timeline]  # one for each seed
    b: list[Timeline]


class Pair(NamedTuple):
    """Run B compared with run A."""

    name: str  # of B
    seeds: tuple[int, ...]
    measures: dict[str, Difference]  # by the names of `MEASURES`
    categories: list[Category]  # the smallest p-value first
    errors: dict[str, tuple[float, float]]  # by kind: shares of the segments of A and of B
    settings: list[Setting] | None  # that differ; None if one of the runs has none
    clips: list[Clip]
    remarks: list[str]


class Comparison(NamedTuple):
    """Run A, and the others compared with it."""

    name: str  # of A
    clips: int
    seeds: tuple[int, ...]  # of A
    pairs: list[Pair]
    remark: str | None  # on which clips, if they are not all


def compare_runs(runs: Sequence[Run], *, common: bool = False) -> Comparison:
    """Compares all runs with the first.

    Raises: UserError as `on_same_clips`.
    """
    (first, *others), remark = on_same_clips(runs, common)
    pairs = [_pair(first, other) for other in others]
    return Comparison(first.name, len(first.saved.ids), tuple(first.saved.labels), pairs, remark)


def difference(a: SavedPredictions, b: SavedPredictions, measure: str = "accuracy") -> Difference:
    """The difference of a measure of `MEASURES` of two runs.

    Both have the same clips in the same order.
    """
    ours, theirs = same_categories([a, b])
    return compare(shares(ours, measure), shares(theirs, measure))


def _pair(a: Run, b: Run) -> Pair:
    settings = _differing(a.settings, b.settings)
    boundary = (a.settings or b.settings or {}).get("evaluate.boundary")
    if not isinstance(boundary, int):
        boundary = BOUNDARY
    errors_a, errors_b = (_errors(run.saved, boundary) for run in (a, b))
    return Pair(
        b.name,
        tuple(b.saved.labels),
        {measure: difference(a.saved, b.saved, measure) for measure in MEASURES},
        _categories(a.saved, b.saved),
        {kind: (errors_a[kind], errors_b[kind]) for kind in errors_a},
        settings,
        _most_changed(a, b),
        _remarks(a, b, settings),
    )


def _differing(a: dict[str, Any] | None, b: dict[str, Any] | None) -> list[Setting] | None:
    if a is None or b is None:
        return None
    names = dict.fromkeys([*a, *b])
    settings = (Setting(name, a.get(name), b.get(name)) for name in names)
    return [setting for setting in settings if setting.a != setting.b]


def _categories(a: SavedPredictions, b: SavedPredictions) -> list[Category]:
    names = (*a.categories, "background")
    present = [k for k in range(len(names)) if (a.actual == k).any()]
    recalls = [compare(recall(a, k), recall(b, k)) for k in present]
    corrected = holm([one.p for one in recalls])
    rows = [
        Category(names[k], one, p) for k, one, p in zip(present, recalls, corrected, strict=True)
    ]
    return sorted(rows, key=lambda row: (row.recall.p, -abs(row.recall.difference)))


def _errors(saved: SavedPredictions, boundary: int) -> dict[str, float]:
    """Means over seeds."""
    background = len(saved.categories)
    of_seeds = [
        error_shares(labels, saved.actual, background, boundary) for labels in saved.labels.values()
    ]
    return {kind: float(np.mean([one[kind] for one in of_seeds])) for kind in of_seeds[0]}


def _remarks(a: Run, b: Run, settings: list[Setting] | None) -> list[str]:
    remarks = []
    for name, one, other in settings or ():
        if name == "evaluate.threshold" and None not in (one, other):
            remarks.append(
                f"The threshold θ differs: {one} in {a.name}, {other} in {b.name}. A part of the "
                f"differences may be its own."
            )
    counts = [len(run.saved.labels) for run in (a, b)]
    if counts[0] != counts[1]:
        remarks.append(
            f"{a.name} has {_seeds(counts[0])} and {b.name} {_seeds(counts[1])}: they are compared "
            f"by their means."
        )
    if counts == [1, 1]:
        remarks.append(
            "One seed each: intervals and p-values answer for other clips, and not for other seeds."
        )
    if len(a.saved.ids) == 1:
        remarks.append("One clip tells nothing about others: there is no interval.")
    if settings is None:
        known = [run.name for run in (a, b) if run.settings is None]
        remarks.append(f"The settings of {' and '.join(known)} are not known.")
    return remarks


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _most_changed(a: Run, b: Run) -> list[Clip]:
    """Clips by the change in their number of right segments; ties in the order of ids."""
    ours, theirs = (right_segments(run.saved).mean(axis=0) for run in (a, b))
    change = (theirs - ours).round(6)
    ids, rows = a.saved.ids, a.saved.rows
    order = sorted(range(len(ids)), key=lambda k: (-abs(change[k]), ids[k], rows[k]))
    return [
        Clip(
            ids[k],
            rows[k],
            float(ours[k]),
            float(theirs[k]),
            Timeline("truth", _stretches(a.saved, a.saved.actual[k], k)),
            _timelines(a, k),
            _timelines(b, k),
        )
        for k in order[:SHOWN]
        if change[k]
    ]


def _timelines(run: Run, clip: int) -> list[Timeline]:
    return [
        Timeline(
            run.name if len(run.saved.labels) == 1 else f"{run.name}, seed {seed}",
            _stretches(run.saved, labels[clip], clip),
        )
        for seed, labels in run.saved.labels.items()
    ]


def _stretches(saved: SavedPredictions, labels: Int[np.ndarray, " T"], clip: int) -> list[Stretch]:
    names = (*saved.categories, "background")
    pairs = zip(labels.tolist(), (labels == saved.actual[clip]).tolist(), strict=True)
    return [Stretch(names[label], len(list(run)), right) for (label, right), run in groupby(pairs)]

"""The clips on which runs are compared: the same ones, with the same labels, in one order."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cace.comparison.sources import Run
from cace.evaluation.prediction_files import SavedPredictions
from cace.system.errors import UserError


class _Clip(NamedTuple):
    id: str
    row: int


def on_same_clips(runs: Sequence[Run], common: bool) -> tuple[list[Run], str | None]:
    """The runs with their clips in the order of the first and with the same categories.

    Clips are the same by id and row. The text says on which clips, if they are not all.

    common: compare on the clips that all have with equal labels.
    Raises: UserError if the runs differ in clips or labels, and not `common`; or none is common.
    """
    truths = [_truth(run.saved) for run in runs]
    first = truths[0]
    shared = [clip for clip in first if all(clip in truth for truth in truths)]
    equal = [clip for clip in shared if all(truth[clip] == first[clip] for truth in truths)]
    remark = None
    if any(len(truth) != len(equal) for truth in truths):
        counts = ", ".join(
            f"{run.name} has {counted_clips(len(truth))}"
            for run, truth in zip(runs, truths, strict=True)
        )
        found = f"{counts}; in all: {len(shared)}, with the same labels: {len(equal)}"
        if not equal:
            raise UserError(f"the test data differ: {found}: nothing to compare on")
        if not common:
            raise UserError(
                f"the test data differ: {found}. --common compares on {counted_clips(len(equal))}"
            )
        remark = f"Compared on {counted_clips(len(equal))} that all have: {found}."
    taken = same_categories([_taken(run.saved, equal) for run in runs])
    return [run._replace(saved=saved) for run, saved in zip(runs, taken, strict=True)], remark


def counted_clips(count: int, kind: str = "") -> str:
    """`1 clip`, `48 test clips`."""
    return f"{count} {kind}clip{'s' if count != 1 else ''}"


def same_categories(runs: Sequence[SavedPredictions]) -> list[SavedPredictions]:
    """The same predictions, with one numbering of the categories that occur in any of the runs."""
    names = tuple(sorted({name for saved in runs for name in saved.categories}))
    renumbered = []
    for saved in runs:
        number = np.array([*(names.index(name) for name in saved.categories), len(names)])
        renumbered.append(
            saved._replace(
                categories=names,
                actual=number[saved.actual],
                labels={seed: number[labels] for seed, labels in saved.labels.items()},
                clip_category={seed: number[one] for seed, one in saved.clip_category.items()},
            )
        )
    return renumbered


def _truth(saved: SavedPredictions) -> dict[_Clip, tuple[str, ...]]:
    names = (*saved.categories, "")  # background
    clips = map(_Clip, saved.ids, saved.rows)
    return {
        clip: tuple(names[label] for label in labels)
        for clip, labels in zip(clips, saved.actual.tolist(), strict=True)
    }


def _taken(saved: SavedPredictions, clips: Sequence[_Clip]) -> SavedPredictions:
    place = {clip: k for k, clip in enumerate(map(_Clip, saved.ids, saved.rows))}
    rows = np.array([place[clip] for clip in clips])
    return saved._replace(
        ids=tuple(clip.id for clip in clips),
        rows=tuple(clip.row for clip in clips),
        actual=saved.actual[rows],
        labels={seed: labels[rows] for seed, labels in saved.labels.items()},
        clip_category={seed: one[rows] for seed, one in saved.clip_category.items()},
    )

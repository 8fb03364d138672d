"""The predictions of commits without metrics/predictions.csv: one row per seed and segment."""

from collections import Counter
from itertools import groupby

import numpy as np

from cace.conventions import SEGMENTS
from cace.evaluation import prediction_files
from cace.evaluation.prediction_files import SavedPredictions
from cace.system.errors import UserError, shown

BACKGROUND = "background"
COLUMNS = ("seed", "id", "segment", "actual", "predicted", "category")  # that are read


def read_segment_table(text: str, where: str) -> SavedPredictions | None:
    """Reads data/predictions/test.csv of such a commit; None without rows.

    The category of a clip is that of most predicted event segments; without any, the one that
    most segments would have.

    Raises: UserError if the text is not of this form.
    """
    header, *lines = prediction_files.lines_of(text, where) or [[]]
    if missing := [name for name in COLUMNS if name not in header]:
        raise UserError(f"{where}: expected columns {','.join(COLUMNS)}, got none of {missing}")
    for place, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise UserError(
                f"{where}, line {place}: expected {','.join(header)}, got {shown(line)}"
            )
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    if len(rows) % SEGMENTS or any(
        row["segment"] != str(k % SEGMENTS) or not prediction_files.NUMBER.fullmatch(row["seed"])
        for k, row in enumerate(rows)
    ):
        raise UserError(f"{where}: expected {SEGMENTS} segments of every clip in the order of time")
    runs = [seed for seed, _ in groupby(row["seed"] for row in rows)]
    if len(runs) != len(set(map(int, runs))):
        raise UserError(f"{where}: expected all rows of a seed together")
    names = sorted({row[k] for row in rows for k in COLUMNS[3:]} - {BACKGROUND})
    number = {name: k for k, name in enumerate([*names, BACKGROUND])}
    seeds = {
        int(seed): [clip[k : k + SEGMENTS] for k in range(0, len(clip), SEGMENTS)]
        for seed, clip in ((s, list(r)) for s, r in groupby(rows, key=lambda row: row["seed"]))
    }
    if not seeds:
        return None
    first, *others = seeds.values()
    labels = {
        seed: np.array([[number[row["predicted"]] for row in clip] for clip in clips])
        for seed, clips in seeds.items()
    }
    category = {
        seed: np.array([number[_category(clip)] for clip in clips]) for seed, clips in seeds.items()
    }
    actual, *same = (
        np.array([[number[row["actual"]] for row in clip] for clip in clips])
        for clips in (first, *others)
    )
    ids, *same_ids = ([clip[0]["id"] for clip in clips] for clips in (first, *others))
    if any(other != ids for other in same_ids) or not all(np.array_equal(s, actual) for s in same):
        raise UserError(f"{where}: expected the same clips and labels for every seed")
    return prediction_files.read(
        prediction_files.write(names, ids, actual, labels, category), where
    )


def _category(clip: list[dict[str, str]]) -> str:
    events = [row["predicted"] for row in clip if row["predicted"] != BACKGROUND]
    ((name, _),) = Counter(events or [row["category"] for row in clip]).most_common(1)
    return name

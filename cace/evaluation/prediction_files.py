"""The predictions on test as they are kept in git: one row per seed and clip, segments in one cell.

A cell lists runs of equal segments in the order of time, such as `.*3;Church bell*5;.*2`, in which
`.` is background. Reading needs no torch: comparisons of runs start quickly.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
from jaxtyping import Int

from cace.conventions import SEGMENTS
from cace.system.errors import UserError, shown

COLUMNS = ("seed", "id", "row", "actual", "predicted", "category")
HEADER = ",".join(COLUMNS) + "\n"
BACKGROUND = "."
MOST_IN_GIT = 1_000_000  # bytes; a larger table is in DVC's cache alone
_RUN = re.compile(r"(?P<label>[^*]+)\*(?P<seconds>\d{1,2})")
NUMBER = re.compile(r"[0-9]{1,18}")  # a seed or a row; Python reads no number of 5,000 digits
_SPECIAL = "%;*"  # written as %25, %3B and %2A in a name


class SavedPredictions(NamedTuple):
    """Labels and predictions of a run on its N test clips, in one order for all seeds."""

    categories: tuple[str, ...]  # that occur, sorted; background is the number of them
    ids: tuple[str, ...]  # of the clips
    rows: tuple[int, ...]  # 0; 1 for the second annotation of the same clip, and so on
    actual: Int[np.ndarray, "N T"]
    labels: dict[int, Int[np.ndarray, "N T"]]  # predicted, by seed
    clip_category: dict[int, Int[np.ndarray, " N"]]  # predicted, by seed


def write(
    names: Sequence[str],
    ids: Sequence[str],
    actual: Int[np.ndarray, "N T"],
    labels: Mapping[int, Int[np.ndarray, "N T"]],
    clip_category: Mapping[int, Int[np.ndarray, " N"]],
) -> str:
    """The table as text.

    names: of the categories; a label is a place in it, or its length for background.
    labels, clip_category: predicted, by seed.
    """
    cells = [*map(_quoted, names), BACKGROUND]
    seen: Counter[str] = Counter()
    rows = []
    for id_ in ids:
        rows.append(seen[id_])
        seen[id_] += 1
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for seed, predicted in labels.items():
        for k, (id_, row) in enumerate(zip(ids, rows, strict=True)):
            segments = (_cell(cells, line[k]) for line in (actual, predicted))
            table.writerow([seed, id_, row, *segments, cells[clip_category[seed][k]]])
    return text.getvalue()


def for_git(table: str) -> str:
    """The table itself if it is small, else only its header."""
    return table if len(table.encode()) <= MOST_IN_GIT else HEADER


def read(text: str, where: str) -> SavedPredictions | None:
    """Reads what `write` wrote; None if it is only a header, since the table was too large for git.

    where: the file, for messages.
    Raises: UserError if the text is not of this form, or the seeds are not of the same clips.
    """
    header, *lines = lines_of(text, where) or [[]]
    if tuple(header) != COLUMNS:
        raise UserError(f"{where}: expected columns {','.join(COLUMNS)}, got {shown(header)}")
    clips: dict[int, dict[tuple[str, int], tuple[list[str], list[str], str]]] = {}
    for number, line in enumerate(lines, start=2):
        place = f"{where}, line {number}"
        if (
            len(line) != len(COLUMNS)
            or not all(line)
            or not (NUMBER.fullmatch(line[0]) and NUMBER.fullmatch(line[2]))
        ):
            raise UserError(f"{place}: expected {','.join(COLUMNS)}, got {shown(line)}")
        id_, actual, predicted, category = line[1], *line[3:]
        seed, row = int(line[0]), int(line[2])
        of_seed = clips.setdefault(seed, {})
        if (id_, row) in of_seed:
            raise UserError(f"{place}: clip {shown(id_)}, row {row} is there twice for seed {seed}")
        of_seed[id_, row] = (_segments(actual, place), _segments(predicted, place), category)
    if not clips:
        return None
    first, *others = clips.values()
    for other in others:
        if other.keys() != first.keys() or any(other[key][0] != first[key][0] for key in first):
            raise UserError(f"{where}: expected the same clips and labels for every seed")
    cells = {
        cell
        for of_seed in clips.values()
        for actual, predicted, category in of_seed.values()
        for cell in (*actual, *predicted, category)
    }
    ordered = sorted(cells - {BACKGROUND}, key=unquote)
    number_of = {cell: k for k, cell in enumerate([*ordered, BACKGROUND])}

    def numbers(segments: Sequence[str]) -> list[int]:
        return [number_of[cell] for cell in segments]

    return SavedPredictions(
        tuple(map(unquote, ordered)),
        tuple(id_ for id_, _ in first),
        tuple(row for _, row in first),
        np.array([numbers(actual) for actual, _, _ in first.values()]),
        # In the order of the first seed: a spreadsheet may have sorted the rows otherwise.
        {
            seed: np.array([numbers(of_seed[clip][1]) for clip in first])
            for seed, of_seed in clips.items()
        },
        {
            seed: np.array(numbers([of_seed[clip][2] for clip in first]))
            for seed, of_seed in clips.items()
        },
    )


def lines_of(text: str, where: str) -> list[list[str]]:
    """The cells of each line of a table in CSV.

    Raises: UserError if the text cannot be CSV.
    """
    try:
        return list(csv.reader(io.StringIO(text)))
    except csv.Error as error:
        raise UserError(f"{where}: expected a table in CSV, got another file: {error}") from None


def _quoted(name: str) -> str:
    if name == BACKGROUND:
        return "%2E"
    return "".join(f"%{ord(sign):02X}" if sign in _SPECIAL else sign for sign in name)


def _cell(cells: Sequence[str], labels: Int[np.ndarray, " T"]) -> str:
    return ";".join(f"{cells[label]}*{len(list(run))}" for label, run in groupby(labels))


def _segments(cell: str, place: str) -> list[str]:
    runs = [_RUN.fullmatch(run) for run in cell.split(";")]
    segments = [run["label"] for run in runs if run for _ in range(int(run["seconds"]))]
    if not all(runs) or len(segments) != SEGMENTS:
        raise UserError(
            f"{place}: expected {SEGMENTS} segments, such as .*3;Church bell*5;.*2, got "
            f"{shown(cell)}"
        )
    return segments

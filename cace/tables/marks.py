"""What is better or worse than the reference row of a table, and what cannot be told."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cace.comparison.results import difference
from cace.comparison.words import interval, points
from cace.evaluation import prediction_files
from cace.evaluation.prediction_files import SavedPredictions
from cace.system.errors import UserError
from cace.system.files import expect_file, read_text


def marks(cells: Path, reference: str, others: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The accuracy on test of cells beside that of the reference, by the names of the cells.

    cells: a folder that has a folder for each cell, with its `predictions.csv`.

    Returns: for each of the others `difference` with `low` and `high` (shares of one; None for a
        single clip), `p`, `verdict` (better, worse, equal, or cannot tell), and `shown`, all in
        words.
    """
    first = _predictions(cells / reference)
    return {name: _mark(first, _predictions(cells / name)) for name in others if name != reference}


def _mark(reference: SavedPredictions, other: SavedPredictions) -> dict[str, Any]:
    found = difference(reference, other)
    shown = f"{points(found.difference, sign=True)} ({interval(found)}): {found.verdict}"
    names = ("difference", "low", "high", "p", "verdict")
    return {**{name: getattr(found, name) for name in names}, "shown": shown}


def _predictions(cell: Path) -> SavedPredictions:
    file = expect_file(cell / "predictions.csv", made_by="the cells")
    saved = prediction_files.read(read_text(file), str(file))
    if saved is None:
        raise UserError(f"{file}: has no predictions; run its stage again with `dvc repro -f`")
    return saved

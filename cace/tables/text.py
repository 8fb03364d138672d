"""Rows of results as text."""

from collections.abc import Iterable, Mapping

import pandas as pd


def markdown(rows: Iterable[Mapping[str, str]]) -> str:
    """A Markdown table; a row that lacks a column has an empty cell there."""
    table = pd.DataFrame(list(rows)).fillna("")
    return table.to_markdown(index=False, disable_numparse=True)


def percent(mean: float, deviation: float | None = None) -> str:
    """Mean and, over several seeds, deviation."""
    # The mean of equal figures may differ from them in the last digit, and so be rounded otherwise.
    shown = f"{round(100 * mean, 6):.1f}"
    return shown + ("" if deviation is None else f" ± {100 * deviation:.1f}")

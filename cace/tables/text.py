"""Rows of results as text."""

from collections.abc import Iterable, Mapping

import pandas as pd


def markdown(rows: Iterable[Mapping[str, str]]) -> str:
    """A Markdown table; a row that lacks a column has an empty cell there."""
    table = pd.DataFrame(list(rows)).fillna("")
    return table.to_markdown(index=False, disable_numparse=True)

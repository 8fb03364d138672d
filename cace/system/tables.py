"""Tables for people: on a terminal, and for spreadsheets."""

from typing import Any

import pandas as pd

from cace.system.errors import printable

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # of cells that spreadsheets compute


def markdown(table: pd.DataFrame) -> str:
    """A table for a terminal, which is Markdown too; text is shown as it is, also if of digits."""

    def cell(value: Any) -> Any:
        return printable(value).replace("|", r"\|") if isinstance(value, str) else value

    texts = [k for k, name in enumerate(table) if not pd.api.types.is_numeric_dtype(table[name])]
    return table.map(cell).to_markdown(index=False, disable_numparse=texts)


def spreadsheet(table: pd.DataFrame) -> str:
    """CSV for spreadsheets: they read it as UTF-8, and compute no text as a formula.

    A byte order mark is at its start, and an apostrophe before text that would be a formula.
    """

    def cell(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        text = value.replace("\r", " ")  # pandas writes it unquoted, and readers end the row there
        return f"'{text}" if value.startswith(FORMULA_STARTS) else text

    return "\ufeff" + table.map(cell).to_csv(index=False)

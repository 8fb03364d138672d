"""The page of the paper's Figure 5: the same clips under several kinds of guidance."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from cace.conventions import SEGMENTS
from cace.report import render
from cace.report.timelines import Clip

SHOWN = 4  # clips


class Way(NamedTuple):
    """A kind of guidance on all of test."""

    name: str
    accuracy: float


def most_disputed(tables: Mapping[str, pd.DataFrame]) -> list[int]:
    """Places of the clips with the most segments that the localizers do not all label the same.

    tables: the `prediction_table` of each. Ties are ordered by id.
    """
    every = list(tables.values())
    labels = np.stack([table["predicted"].to_numpy().reshape(-1, SEGMENTS) for table in every])
    disputed = (labels != labels[0]).any(axis=0).sum(axis=1)
    ids = every[0]["id"].to_numpy()[::SEGMENTS]
    return sorted(range(len(ids)), key=lambda k: (-disputed[k], ids[k]))[:SHOWN]


def guidance_page(
    source: str, tables: Mapping[str, pd.DataFrame], clips: list[Clip], threshold: float
) -> str:
    """One HTML file. `tables` and the clips' tracks have the kinds of guidance as names."""
    ways = [
        Way(name, float((table["actual"] == table["predicted"]).mean()))
        for name, table in tables.items()
    ]
    return render(
        "guidance.html",
        "ablations.figure_5",
        source=source,
        ways=ways,
        clips=clips,
        threshold=threshold,
    )

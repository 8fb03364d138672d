"""The page and the JSON of one match."""

import json
from typing import Any

from cace.inference.match import LIMITS, NAMES, Match
from cace.inference.page import clock, data_url, name_text, url
from cace.report import render

BEST = 5  # windows that the page lists
DIGITS = 4  # after the point, in files


def match_page(match: Match, *, embed: bool = False, link: str | None = None) -> str:
    """One HTML file with the video, and the fit of every window under it.

    embed: the video goes into the page, at 4/3 of its size; else the page links to it.
    link: path of the video, relative to the page's folder; None: both are in one folder.
    """
    low, high = float(match.fits.min()), float(match.fits.max())
    room = high - low or 1.0
    return render(
        "match.html",
        "cace.inference",
        name=name_text(match.file.name),
        source=data_url(match.file) if embed else url(link or match.file.name),
        match=match,
        given=NAMES[match.given],
        searched=NAMES[match.searched],
        best=match.windows[:BEST],
        same=match.windows[match.rank - 1],
        heights=[round((float(fit) - low) / room, 3) for fit in match.fits],
        low=low,
        high=high,
        limits=LIMITS,
        clock=clock,
    )


def match_json(match: Match) -> str:
    """All windows, the best first, and what they were found with."""

    def plain(start: int, end: int, **more: Any) -> dict[str, Any]:
        return {"start": start, "end": end, **more}

    windows = [plain(w.start, w.end, fit=round(w.fit, DIGITS)) for w in match.windows]
    content = {
        "video": name_text(match.file.name),
        "seconds": round(match.seconds, DIGITS),
        "given": {"modality": NAMES[match.given], **plain(match.start, match.end)},
        "searched": NAMES[match.searched],
        "best": windows[0],
        "rank_of_same_seconds": match.rank,
        "fit": match.fit_means,
        "windows": windows,
        "model": match.model,
        "warning": match.training.warning,
        "remarks": match.remarks,
        "limits": LIMITS,
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

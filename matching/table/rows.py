"""The cells of matching and the rules that look at nothing, as rows of text."""

from typing import Any

from cace.comparison.words import percent

CELLS = ("distance", "dam")
MEASURES = {
    "exact": "start",
    "ends_early": "start, event ends early",
    "inside": "start, event inside",
    "overlap": "overlap",
}
DIRECTIONS = {"a2v": "A2V", "v2a": "V2A"}
KEPT = ("parameters", "reconstruction")  # of a cell, for its row

ABOUT = """\
Given the seconds of an event in one modality, find them in the other: A2V searches the picture \
for the window that belongs to a sound, V2A the sound for a picture. The length is known. Percent, \
mean ± deviation over seeds, with a 95 % interval over test clips. Start: clips in which exactly \
the right second is found. Event ends early: the same, of the clips whose event ends before the \
clip; always choosing the last window gets nothing there. Event inside: those whose event also \
starts after the clip; always choosing the first second gets nothing there either. Overlap: the \
mean share of the seconds of both windows together that are in both. The first four rows look at \
nothing."""
BELOW = """\
A matcher shows that it uses picture and sound where it is better than the best of the four rules \
in the same column."""
NO_EVIDENCE = """\
The clips of mini are drawings. This table shows that the matchers run; it is no evidence about \
AVE."""


def rows(cells: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the rules, then of the matchers, with the measures in both directions.

    cells: `scores.json` of each cell, by its name.
    """
    rules = next(iter(cells.values()))["content_free"]
    free = [{"row": name, "a2v": found, "v2a": found} for name, found in rules.items()]
    trained = [
        {"row": cell["title"], **{key: cell[key] for key in (*DIRECTIONS, *KEPT)}}
        for name in CELLS
        if (cell := cells.get(name))
    ]
    return [*free, *trained]


def columns(row: dict[str, Any]) -> dict[str, str]:
    """A row as text."""
    values = {
        f"{direction}: {measure}": shown(row[key][name])
        for name, measure in MEASURES.items()
        for key, direction in DIRECTIONS.items()
    }
    about = {}
    if "parameters" in row:
        kind = "reconstruction" if row["reconstruction"] else "exact"
        about = {"parameters": f"{row['parameters']:,}", "kind": kind}
    return {"row": row["row"], **values, **about}


def shown(measure: dict[str, Any]) -> str:
    """`47.0 ± 1.2 (42.1 to 51.9)`; without clips `no clips`."""
    if measure["mean"] is None:
        return "no clips"
    text = percent(measure["mean"], measure["std"])
    if measure["low"] is None:
        return text
    return f"{text} ({percent(measure['low'])} to {percent(measure['high'])})"


def scored(cell: dict[str, Any]) -> str:
    """How many clips a cell scored, and which it skipped."""
    early, inside = (cell["a2v"][name]["clips"] for name in ("ends_early", "inside"))
    skipped = "; ".join(f"{count} {reason}" for reason, count in cell["skipped"].items() if count)
    text = (
        f"{cell['clips']} test clips are scored; the event ends early in {early} of them, and is "
        f"inside in {inside}."
    )
    return f"{text} Skipped: {skipped}." if skipped else text

"""The tables, filled from the cells of the baselines, as text."""

from typing import Any, NamedTuple

from cace.comparison.words import percent

# Sources that fill a row. On AVE's clips, the features are those of the paper's last row alone.
ALL = ("mini", "folder", "released", "ave")
VGG = ("mini", "folder", "released")


class Row(NamedTuple):
    """A row of the paper, and the cell that corresponds to it."""

    label: str
    cell: str
    paper: float | None  # percent, on AVE; None: no figure that can be cited
    sources: tuple[str, ...] = ALL  # that fill it


TABLE_5_ROWS = (
    Row("Audio", "audio", 59.5),
    Row("Visual", "visual", 55.3),
    Row("AVEL", "avel", 72.7),
    Row("DAM", "dam", 74.5),
    Row("CMRAN", "cmran", 77.4),
    Row("PSP", "psp", 77.8),
    Row("CMBS", "cmbs", 79.3),
    Row("AVE-CLIP", "ave_clip", 79.3),
    Row("CSS-Net", "css", 80.5),
    Row("CACE-Net", "cace_net", 80.8, VGG),
    Row("CACE-Net, Cnn14 and ResNet-50", "cace_net", 82.4, ("ave",)),
)
WEAK_ROWS = (
    Row("AVEL", "avel", None),
    Row("DAM", "dam", None),
    Row("CMRAN", "cmran", 72.94),
    Row("PSP", "psp", None),
    Row("CMBS", "cmbs", 73.95),
    Row("AVE-CLIP", "ave_clip", None),
    Row("CSS-Net", "css", 76.8),
    Row("CACE-Net", "cace_net", None),
)
REFERENCE = "cace_net"  # the cell that the others are compared with
ANCHORS = {
    "always_background": "every segment called background",
    "never_background": "right category, never background",
}

TABLE_5_ABOUT = """\
Segment accuracy on test, percent. Every method has the training settings of its authors' code; \
those of reconstructions are ours. Honest: the epoch chosen on val, mean ± deviation over seeds, \
with a 95 % interval over test clips. Against CACE-Net: the difference in points, with a 95 % \
interval from paired clips, and whether it is better, worse, or cannot be told. Best on test: the \
epoch chosen on test, as most of these papers do; mean ± deviation over seeds. Paper: on AVE, from \
CACE-Net's Table 5. A reconstruction is ours, from a paper without released code: its free choices \
are listed below."""
WEAK_ABOUT = """\
Segment accuracy on test, percent, after training that read one tag of each clip and no label of \
a segment. All methods learn by one protocol (docs/weak.md), with the training settings of their \
supervised code. Honest: the epoch chosen on val, with its segment labels; mean ± deviation over \
seeds, with a 95 % interval over test clips. Against CACE-Net: the difference in points, with a \
95 % interval from paired clips. Best on test: the epoch chosen on test. Paper: as published, by \
other protocols: CMRAN, in the name of the folder that the authors' test script reads; CMBS, the \
released checkpoint; CSS-Net, its abstract. The others have no figure that we could read. A \
model that knows the tag and never says background reaches the second row without locating \
anything: read background recall and precision beside every accuracy."""
FEW_CLIPS = """\
The data set is small: epochs, batch size and milestones are ours, and shorter than the authors'."""
NO_EVIDENCE = """\
The clips of mini are drawings. This table shows that all methods run; it is no evidence about \
AVE."""


class Table(NamedTuple):
    """A table, and where its cells and files are."""

    title: str
    folder: str  # of the cells in data/, and of the results in metrics/
    name: str  # of the files
    about: str
    rows: tuple[Row, ...]


TABLES = {
    "table_5": Table("Table 5", "baselines", "table_5", TABLE_5_ABOUT, TABLE_5_ROWS),
    "weak": Table("Weak supervision", "weak", "table", WEAK_ABOUT, WEAK_ROWS),
}


def anchors(cells: dict[str, Any]) -> list[dict[str, Any]]:
    """What no method needs to be trained for, from the labels of test."""
    found = next(iter(cells.values()))["anchors"]
    return [{"row": text, "accuracy": found[name]} for name, text in ANCHORS.items()]


def entry(
    row: Row, source: str, cells: dict[str, Any], marks: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """One row of the table; without figures if it is of other sources.

    marks: of cells, against the reference.
    """
    start = {"row": row.label, "cell": row.cell, "paper": row.paper}
    if source not in row.sources:
        return {**start, "not_run": f"runs with data.source {' or '.join(row.sources)}"}
    cell = cells[row.cell]
    shared = {name: cell[name] for name in ("best_on_test", "parameters", "reconstruction")}
    against = {"against_cace_net": marks[row.cell]} if row.cell in marks else {}
    epochs = cell["train"]["epochs"]
    return {**start, "test": cell["test"], **against, **shared, "epochs": epochs}


def without_events(rows: list[dict[str, Any]]) -> list[str]:
    """The rows of methods that called every segment background, with every seed."""
    return [row["row"] for row in rows if "test" in row and row["test"]["event_recall"] == 0]


def columns(row: dict[str, Any]) -> dict[str, str]:
    """A row as text."""
    if "accuracy" in row:
        return {"row": row["row"], "paper": "", "honest": percent(row["accuracy"])}
    start = {"row": row["row"], "paper": "" if row["paper"] is None else f"{row['paper']:.1f}"}
    if "not_run" in row:
        return {**start, "honest": f"not run: {row['not_run']}"}
    test, best_on_test = row["test"], row["best_on_test"]
    low, high = test["accuracy_low"], test["accuracy_high"]
    return {
        **start,
        "honest": percent(test["accuracy"], test["accuracy_std"]),
        "interval": "" if low is None else f"{percent(low)} to {percent(high)}",
        "against CACE-Net": row.get("against_cace_net", {}).get("shown", ""),
        "best on test": percent(best_on_test["mean"], best_on_test["std"]),
        "category": percent(test["category_accuracy"]),
        "background recall": percent(test["background_recall"]),
        "background precision": percent(test["background_precision"]),
        "event-level F1": percent(test["event_level_f1"]),
        "parameters": f"{row['parameters']:,}",
        "kind": "reconstruction" if row["reconstruction"] else "exact",
    }

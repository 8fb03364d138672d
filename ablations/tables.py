"""DVC stage of the ablations: the cells as the paper's tables, with the paper's figures."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from cace.comparison.words import percent
from cace.settings import load_params
from cace.system.errors import run
from cace.system.files import expect_file, write_atomically, write_json
from cace.system.scratch import remove_recorded
from cace.tables.marks import marks
from cace.tables.text import markdown

CLIP_SOURCES = ("mini", "folder", "ave")


class Row(NamedTuple):
    """A row of the paper, and the cell that corresponds to it."""

    label: str
    cell: str | dict[str, str]  # by source, if only some sources have it
    paper: float | None = None  # percent, on AVE


class Table(NamedTuple):
    """A table of the paper, or ours if its rows have no figure of the paper."""

    title: str
    rows: tuple[Row, ...]


TABLES = {
    "table_1": Table(
        "Table 1: co-guidance attention, without contrast enhancement",
        (
            Row("w/o AVCA", "none", 78.26),
            Row("w/ AVCA-Visual-only: sound guides vision", "audio", 78.83),
            Row("w/ AVCA-Audio-only: vision guides sound", "visual", 77.23),
            Row("w/ AVCA", "both", 80.30),
        ),
    ),
    "table_2": Table(
        "Table 2: background-event contrast enhancement, with co-guidance attention",
        (
            Row("w/o BECE", "both", 80.30),
            Row("w/ BECE λ = 0.2", "lambda_02", 80.25),
            Row("w/ BECE λ = 0.4", "lambda_04", 80.65),
            Row("w/ BECE λ = 0.6", "both_bece", 80.80),
            Row("w/ BECE λ = 0.8", "lambda_08", 80.10),
            Row("w/ BECE λ = 0.6, for both heads", "both_heads", 80.65),
        ),
    ),
    "table_3": Table(
        "Table 3: encoders and fine-tuning (mini, folder: an untrained, a pretrained and a "
        "fine-tuned visual encoder)",
        (
            Row(
                "w/o More Efficient Encoders",
                {"released": "both_bece", "mini": "random", "folder": "random"},
                80.80,
            ),
            Row("with More Efficient Encoders", dict.fromkeys(CLIP_SOURCES, "pretrained"), 81.56),
            Row(
                "with More Efficient Encoders + Fine-tuning",
                dict.fromkeys(CLIP_SOURCES, "both_bece"),
                82.36,
            ),
        ),
    ),
    "table_4": Table(
        "Table 4: overview; without AVCA, sound alone guides vision",
        (
            Row("-", "audio", 78.83),
            Row("BECE", "audio_bece", 78.93),
            Row("AVCA", "both", 80.30),
            Row("AVCA, BECE", "both_bece", 80.80),
            Row("AVCA, BECE, Efficient Encoder", dict.fromkeys(CLIP_SOURCES, "both_bece"), 82.36),
        ),
    ),
    "contrast": Table(
        "The contrast at other temperatures τ, and with the sum over positives outside the "
        "logarithm (supcon)",
        tuple(
            Row(f"{form}, τ = {tau}", cell)
            for form, tau, cell in (
                ("paper", 0.01, "both_bece"),
                ("paper", 0.07, "paper_tau_007"),
                ("paper", 0.2, "paper_tau_02"),
                ("supcon", 0.01, "supcon_tau_001"),
                ("supcon", 0.07, "supcon_tau_007"),
                ("supcon", 0.2, "supcon_tau_02"),
            )
        ),
    ),
    "weak": Table(
        "Weak supervision (docs/weak.md), without contrast enhancement: mismatched pairs for each "
        "clip, and the share of a clip that an event fills",
        (
            Row("pairs 1.0, share 0.7", "weak"),
            Row("pairs 0.5, share 0.7", "weak_half_the_pairs"),
            Row("pairs 1.0, share 0.4", "weak_top_04"),
            Row("pairs 1.0, share 1.0", "weak_top_10"),
        ),
    ),
}


def main() -> None:
    """Writes metrics/ablations/tables.json and tables.md."""
    remove_recorded("ablations/dvc.yaml:tables")
    source = load_params().data.source
    cells = Path("data/ablations/cells")
    results = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in expect_file(cells, made_by="ablations/dvc.yaml").glob("*/scores.json")
    }
    gathered: dict[str, Any] = {"source": source}
    parts = [f"# Ablations on {source}", ABOUT]
    for name, (title, rows) in TABLES.items():
        entries = [entry(row, source, results) for row in rows]
        add_marks(entries, cells)
        gathered[name] = entries
        parts += [f"## {title}", markdown(map(columns, entries))]
    write_json(Path("metrics/ablations/tables.json"), gathered)
    write_atomically(Path("metrics/ablations/tables.md"), "\n\n".join(parts) + "\n")
    print("\n\n".join(parts))


ABOUT = """\
Segment accuracy on test, percent. Honest: the epoch chosen on val, mean ± deviation over seeds. \
Against the first row: the difference in points, with a 95 % interval from paired clips, and \
whether it is better, worse, or cannot be told. Best on test: the epoch chosen on test, mean ± \
deviation over seeds. Paper: on AVE, one seed, the epoch chosen on test. Excess: of the contrast \
over its lowest possible value, after the last epoch; gradient: its share of the gradient's norm \
there."""


def entry(row: Row, source: str, results: dict[str, Any]) -> dict[str, Any]:
    """One row of a table; without figures if this source has no such cell."""
    cell = row.cell if isinstance(row.cell, str) else row.cell.get(source)
    start = {"row": row.label, "cell": cell, "paper": row.paper}
    if cell is None:
        assert isinstance(row.cell, dict)
        return {**start, "not_run": f"runs with data.source {' or '.join(row.cell)}"}
    result = results[cell]
    if "not_run" in result:
        return {**start, "not_run": result["not_run"]}
    names = ("accuracy", "accuracy_std", "background_recall", "seeds")
    test = {name: result["test"][name] for name in names}
    shared = {name: result[name] for name in ("best_on_test", "contrast", "encoders", "epochs")}
    return {**start, "test": test, **shared}


def add_marks(entries: list[dict[str, Any]], cells: Path) -> None:
    """Adds to each entry how it differs from the first one that was run, the reference."""
    ran = [entry for entry in entries if "test" in entry]
    found = marks(cells, ran[0]["cell"], [entry["cell"] for entry in ran[1:]]) if ran else {}
    for entry in ran[1:]:
        if entry["cell"] in found:
            entry["against_first"] = found[entry["cell"]]


def columns(entry: dict[str, Any]) -> dict[str, str]:
    """An entry as text."""
    first = ("honest", "against the first row", "best on test")
    shown = {"row": entry["row"], "cell": entry["cell"] or "", **dict.fromkeys(first, "")}
    paper = "" if entry["paper"] is None else f"{entry['paper']:.2f}"
    if "not_run" in entry:
        return {**shown, "honest": f"not run: {entry['not_run']}", "paper": paper}
    test, best_on_test, contrast = entry["test"], entry["best_on_test"], entry["contrast"]
    visual = entry["encoders"]["visual"]
    off = contrast["excess"] is None
    return {
        **shown,
        "honest": percent(test["accuracy"], test["accuracy_std"]),
        "against the first row": entry.get("against_first", {}).get("shown", ""),
        "best on test": percent(best_on_test["mean"], best_on_test["std"]),
        "background recall": percent(test["background_recall"]),
        "paper": paper,
        "excess": "" if off else f"{contrast['excess']:.4f}",
        "gradient": "" if off else f"{contrast['gradient']:.1%}",
        "visual encoder": f"{visual['name']}, {visual['weights']}"
        + (f", fine-tuned {epochs} epochs" if (epochs := visual.get("finetuned_epochs")) else ""),
    }


if __name__ == "__main__":
    run(main)

"""DVC stage of the baselines: the cells as the paper's Table 5, beside its figures."""

import json
from pathlib import Path

from baselines.table_5.rows import (
    ABOUT,
    FEW_CLIPS,
    NO_EVIDENCE,
    REFERENCE,
    ROWS,
    anchors,
    columns,
    entry,
    without_events,
)
from cace.report import render
from cace.settings import load_params
from cace.system.errors import run
from cace.system.files import expect_file, write_atomically, write_json
from cace.tables.marks import marks
from cace.tables.text import markdown

CELLS = Path("data/baselines/cells")
METRICS = Path("metrics/baselines")


def main() -> None:
    """Writes metrics/baselines/table_5.json and table_5.md, and data/baselines/table_5.html."""
    params = load_params()
    source = params.data.source
    cells = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(expect_file(CELLS, made_by="baselines/dvc.yaml").glob("*/scores.json"))
    }
    marked = marks(CELLS, REFERENCE, cells)
    rows = [*anchors(cells), *(entry(row, source, cells, marked) for row in ROWS)]
    notes = {cell["title"]: text for cell in cells.values() if (text := cell["reconstruction"])}
    about = [ABOUT]
    if params.baselines.few_clips:
        about.append(FEW_CLIPS)
    if source == "mini":
        about.append(NO_EVIDENCE)
    if silent := without_events(rows):
        about.append(
            f"{', '.join(silent)}: trained in this way, they call every segment background. "
            f"docs/methods.md, AVEL, gives the reason."
        )
    trained = {cell["title"]: cell["train"] for cell in cells.values()}
    write_json(METRICS / "table_5.json", {"source": source, "rows": rows})
    text = [
        f"# Table 5 on {source}",
        *about,
        markdown(columns(row) for row in rows),
        "## Reconstructions",
    ]
    text.append("\n".join(f"- {title}: {note}." for title, note in notes.items()))
    write_atomically(METRICS / "table_5.md", "\n\n".join(text) + "\n")
    page = render(
        "table_5.html",
        "baselines.table_5",
        source=source,
        about=about,
        rows=rows,
        table=[columns(row) for row in rows],
        notes=notes,
        trained=trained,
    )
    write_atomically(Path("data/baselines/table_5.html"), page)
    print("\n\n".join(text))


if __name__ == "__main__":
    run(main)

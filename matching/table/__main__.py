"""DVC stage of matching: the cells as a table, beside rules that look at nothing."""

import json
from pathlib import Path

from cace import paths
from cace.report import render
from cace.settings import load_params
from cace.system.errors import run
from cace.system.files import expect_file, write_atomically, write_json
from cace.tables.text import markdown
from matching.table.rows import ABOUT, BELOW, NO_EVIDENCE, columns, rows, scored

METRICS = paths.METRICS / "matching"


def main() -> None:
    """Writes metrics/matching/table.json and table.md, and data/matching/table.html."""
    source = load_params().data.source
    cells = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(
            expect_file(paths.MATCHERS, made_by="matching/dvc.yaml").glob("*/scores.json")
        )
    }
    found = rows(cells)
    about = [ABOUT, scored(next(iter(cells.values()))), BELOW]
    if source == "mini":
        about.append(NO_EVIDENCE)
    notes = {cell["title"]: text for cell in cells.values() if (text := cell["reconstruction"])}
    write_json(METRICS / "table.json", {"source": source, "rows": found})
    title = f"Cross-modality localization on {source}"
    text = [f"# {title}", *about, markdown(columns(row) for row in found)]
    text.append("\n".join(f"- {name}, a reconstruction: {note}." for name, note in notes.items()))
    write_atomically(METRICS / "table.md", "\n\n".join(text) + "\n")
    page = render(
        "matching.html",
        "matching.table",
        title=title,
        about=about,
        table=[columns(row) for row in found],
        notes=notes,
        trained={cell["title"]: cell["train"] for cell in cells.values()},
    )
    write_atomically(Path("data/matching/table.html"), page)
    print("\n\n".join(text))


if __name__ == "__main__":
    run(main)

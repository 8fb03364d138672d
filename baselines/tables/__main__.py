"""DVC stages of the baselines: the cells as a table, beside the published figures."""

import argparse
import json
from pathlib import Path

from baselines.tables.rows import (
    FEW_CLIPS,
    NO_EVIDENCE,
    REFERENCE,
    TABLES,
    anchors,
    columns,
    entry,
    without_events,
)
from cace import paths
from cace.report import render
from cace.settings import load_params
from cace.system.errors import run
from cace.system.files import expect_file, write_atomically, write_json
from cace.tables.marks import marks
from cace.tables.text import markdown


def main() -> None:
    """Writes a table's JSON and Markdown into metrics/, and its page into data/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=TABLES)
    table = TABLES[parser.parse_args().table]
    folder, metrics = Path("data") / table.folder, paths.METRICS / table.folder
    params = load_params()
    source = params.data.source
    files = expect_file(folder / "cells", made_by="baselines/dvc.yaml").glob("*/scores.json")
    cells = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(files)
    }
    marked = marks(folder / "cells", REFERENCE, cells)
    rows = [*anchors(cells), *(entry(row, source, cells, marked) for row in table.rows)]
    notes = {cell["title"]: text for cell in cells.values() if (text := cell["reconstruction"])}
    about = [table.about]
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
    title = f"{table.title} on {source}"
    text = [
        f"# {title}",
        *about,
        markdown(columns(row) for row in rows),
        "## Reconstructions",
        "\n".join(f"- {name}: {note}." for name, note in notes.items()),
    ]
    write_json(metrics / f"{table.name}.json", {"source": source, "rows": rows})
    write_atomically(metrics / f"{table.name}.md", "\n\n".join(text) + "\n")
    page = render(
        "table.html",
        "baselines.tables",
        title=title,
        about=about,
        rows=rows,
        table=[columns(row) for row in rows],
        notes=notes,
        trained=trained,
        folder=table.folder,
    )
    write_atomically(folder / f"{table.name}.html", page)
    print("\n\n".join(text))


if __name__ == "__main__":
    run(main)

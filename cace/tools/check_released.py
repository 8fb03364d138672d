"""What is wrong with the released features of AVE, before the pipeline uses them."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from cace.conventions import SPLITS
from cace.data.annotations import Row
from cace.data.sources import released
from cace.data.sources.released_labels import read_released
from cace.extraction.convert import RELEASED, unusable_rows
from cace.system.errors import UserError
from cace.tools.check import Checked


def check_released(folder: Path) -> Checked:
    """Reads the released files in a folder, as the pipeline would, including all features."""
    problems, remarks = [], []
    found: dict[str, Path] = {}
    try:
        found = released.find_files(folder)
    except UserError as error:
        problems.append(str(error))
    needed = [file.name for file in released.FILES if file.name not in released.OPTIONAL]
    missing = [name for name in needed if found and name not in found]
    remarks += [f"{name}: not here; the pipeline downloads it" for name in missing]
    rows: tuple[Row, ...] = ()
    if found and not missing:
        with TemporaryDirectory() as media:
            for name, path in found.items():
                (Path(media) / name).symlink_to(path.resolve())
            try:
                annotations, _, differences = read_released(Path(media))
                rows = annotations.rows
                remarks += [f"{line}; labels.h5 is used" for line in differences.values()]
            except UserError as error:
                problems.append(str(error).replace(media, str(folder)))
    for modality, (_, name) in RELEASED.items():
        if name in found:
            try:
                problems += [f"{name}, {line}" for line in unusable_rows(found[name], modality)]
            except (KeyError, OSError) as error:
                problems.append(f"{name}: cannot be read: {error}")
    files = pd.DataFrame({"file": found.keys(), "path": [str(path) for path in found.values()]})
    counts = Counter(row.split for row in rows)
    summary = {
        "files": f"{len(found)}, of {len(released.FILES)}",
        "rows": str(len(rows)),
        "splits": ", ".join(f"{split} {counts[split]}" for split in SPLITS),
    }
    advice = [f"get these files again ({len(problems)})"] if problems else []
    table = pd.DataFrame(summary.items(), columns=["", "found"])
    return Checked(files, table, problems, remarks, advice)

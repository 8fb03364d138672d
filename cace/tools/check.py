"""What is in a folder of clips, and what is wrong with it, before the pipeline uses it."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pandas as pd

from cace.conventions import SPLITS
from cace.data.annotations import Annotations, read_annotations
from cace.data.sources.folder import clip_files, differences, find_clips, index_of, label_files
from cace.media.pool import MediaFile, decode_clips

# Enough to find all damage: every frame is decoded, few are stored.
SMALL: dict[str, Any] = {
    "fps": 1,
    "short_side": 32,
    "crop": 32,
    "jpeg_quality": 50,
    "backend": "pyav",
}


class Checked(NamedTuple):
    """A folder of clips."""

    clips: pd.DataFrame  # one row an annotated clip
    summary: pd.DataFrame  # one row a property
    problems: list[str]  # each would leave a clip out, or stop the pipeline
    remarks: list[str]  # worth knowing, but harmless


def check_folder(
    folder: Path, index: pd.DataFrame, *, min_seconds: float, deadline_seconds: float, workers: int
) -> Checked:
    """Reads the annotations and decodes every clip, as the pipeline would.

    index: of `cace index`; if it has no clip of this folder, it is of another one and is ignored.
    Raises: UserError with every problem of the annotations; without them no clip is checked.
    """
    annotations = read_annotations(folder)
    found = find_clips(folder, annotations)
    files = [MediaFile(id_, found.get(id_)) for id_ in annotations.ids]
    with TemporaryDirectory() as scratch:
        decoded = decode_clips(
            files,
            annotations,
            Path(scratch),
            **SMALL,
            min_seconds=min_seconds,
            deadline_seconds=deadline_seconds,
            workers=workers,
        )
    clips = decoded.drop(columns=["shard", "row"])
    refused = clips[~clips["usable"]]
    problems = [f"{row.id}: {row.reason}" for row in refused.itertuples()]
    if index["id"].isin(list(found)).any():
        now = index_of({**found, **label_files(folder)})
        problems += [f"{line} since it was indexed" for line in differences(index, now)]
    padded = clips[clips["padded"]]
    remarks = [
        f"{row.id}: padded, with {row.picture_seconds:.2f} s of picture and "
        f"{row.sound_seconds:.2f} s of sound"
        for row in padded.itertuples()
    ]
    noted = clips[clips["remarks"] != ""]
    remarks += [f"{row.id}: {row.remarks}" for row in noted.itertuples()]
    remarks += [
        f"{path.name}: not annotated, ignored"
        for path in clip_files(folder)
        if path not in found.values()
    ]
    return Checked(clips, _summary(annotations, clips), problems, remarks)


def _summary(annotations: Annotations, clips: pd.DataFrame) -> pd.DataFrame:
    rows = annotations.rows
    per_split = Counter(row.split for row in rows)
    lengths = [row.end - row.start for row in rows]
    entries = {
        "clips": f"{len(clips)}, of which {int(clips['usable'].sum())} can be used",
        "splits": ", ".join(f"{split} {per_split[split]}" for split in SPLITS),
        "categories": _counted(annotations.categories[row.category] for row in rows),
        "events": f"{sum(length > 0 for length in lengths)}; rows last {min(lengths)} to "
        f"{max(lengths)} s, on average {sum(lengths) / len(lengths):.1f} s",
        "duration": _counted(clips["duration"]),
        "frames a second": _counted(clips["frames_a_second"]),
        "size": _counted(clips["size"]),
        "sound": _counted(clips["sound"]),
    }
    return pd.DataFrame(entries.items(), columns=["", "found"])


def _counted(values: Iterable[str], most: int = 8) -> str:
    """Each value with how often it occurs, the most frequent first."""
    counts = Counter(value for value in values if value).most_common()
    shown = [f"{value} ({count})" for value, count in counts[:most]]
    return ", ".join([*shown, *([f"{len(counts) - most} more"] if len(counts) > most else [])])

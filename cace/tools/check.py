"""What is in a folder of clips, and what is wrong with it, before the pipeline uses it."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pandas as pd

from cace.conventions import DEADLINE_SECONDS, MIN_SECONDS, SPLITS, VIDEO_ENDINGS
from cace.data.annotations import (
    Annotations,
    examine_annotations,
    known_categories,
    near_twins,
    unlearned,
)
from cace.data.sources.folder import (
    differences,
    find_clips,
    id_of,
    index_of,
    label_files,
    other_files,
    shared_files,
)
from cace.media.pool import MediaFile, decode_clips
from cace.media.store import Facts
from cace.paths import INDEX
from cace.settings import WeakParams
from cace.system.errors import UserError
from cace.system.workers import stopping_on_sigterm

# Enough to find all damage: every frame is decoded, few are stored.
SMALL: dict[str, Any] = {"fps": 1, "short_side": 32, "crop": 32, "jpeg_quality": 50}


class Limits(NamedTuple):
    """The settings of section decode that decide which clips are refused, and if a run stops."""

    backend: str = "pyav"
    min_seconds: float = MIN_SECONDS
    deadline_seconds: float = DEADLINE_SECONDS
    max_bad_fraction: float = 0.05


class Checked(NamedTuple):
    """What is in a folder."""

    clips: pd.DataFrame  # one row an annotated clip
    summary: pd.DataFrame  # one row a property
    problems: list[str]  # each leaves a clip out, stops the pipeline, or spoils its results
    remarks: list[str]  # worth knowing, but harmless
    advice: list[str]  # what to do, one line for each kind of problem


def check_folder(
    folder: Path,
    index: pd.DataFrame,
    *,
    source: str,
    limits: Limits,
    workers: int,
    weak: WeakParams | None = None,
) -> Checked:
    """Reads the annotations and decodes every clip, as the pipeline would.

    index: written by `cace index`; ignored if it contains no clip of this folder.
    source: folder, or ave, whose categories are given.
    weak: the settings of weak supervision; None with full supervision.
    Raises: UserError if there is no `Annotations.txt`, or it is not text.
    """
    annotations, of_rows = examine_annotations(folder, known_categories(source))
    try:
        found, nothing = find_clips(folder, annotations), []
    except UserError as error:
        found, nothing = {}, [str(error)]
    clips = _decoded(annotations, found, limits, workers)
    usable = set(clips.loc[clips["usable"], "id"])
    refused = [f"{row.id}: {row.reason}" for row in clips[~clips["usable"]].itertuples()]
    share = f"decode.max_bad_fraction allows a share of {limits.max_bad_fraction:g}"
    too_many = len(refused) > limits.max_bad_fraction * len(clips)
    lacking = [f"{len(refused)} of {len(clips)} clips cannot be used; {share}"] if too_many else []
    lacking += _lacking(annotations, usable)
    if weak:
        lacking += _not_teaching_background(annotations, usable, weak)
    spoiled = _not_learnable(annotations)
    shared = [f"{', '.join(ids)}: the same file" for ids in shared_files(found, annotations)]
    spoiled += [f"{line}, but not in the same split" for line in shared if source == "folder"]
    changed, remarks = _against_index(folder, found, index) if source == "folder" else ([], [])
    advice = [
        (of_rows, "fix the lines named above, in Annotations.txt and the split files"),
        (nothing, f"put the clips into {folder / 'AVE'}"),
        (
            refused,
            "replace these clips, or remove their rows; the pipeline would "
            + ("stop" if too_many else "leave them out"),
        ),
        (lacking, "add clips that can be used, or raise the limit"),
        (spoiled, "move clips between the splits, or remove them: the results would be misleading"),
        (changed, f"run `cace index {folder}`, or restore the files"),
    ]
    remarks += [f"{line}, in several splits" for line in shared if source != "folder"]
    remarks += _names(folder, annotations, found) + _padded(clips)
    noted = clips[clips["remarks"] != ""]
    remarks += [f"{row.id}: {row.remarks}" for row in noted.itertuples()]
    return Checked(
        clips,
        _summary(annotations, clips),
        [line for lines, _ in advice for line in lines],
        remarks,
        [f"{what} ({len(lines)})" for lines, what in advice if lines],
    )


def _decoded(
    annotations: Annotations, found: dict[str, Path], limits: Limits, workers: int
) -> pd.DataFrame:
    """One row a clip: whether it can be used, and what its file declares."""
    files = [MediaFile(id_, found.get(id_)) for id_ in annotations.ids]
    if not files:
        return pd.DataFrame(columns=["id", "usable", "padded", "reason", "remarks", *Facts._fields])
    with stopping_on_sigterm(), TemporaryDirectory() as scratch:
        decoded = decode_clips(
            files,
            annotations,
            Path(scratch),
            **SMALL,
            backend=limits.backend,
            min_seconds=limits.min_seconds,
            deadline_seconds=limits.deadline_seconds,
            workers=workers,
        )
    return decoded.drop(columns=["shard", "row"])


def _lacking(annotations: Annotations, usable: set[str]) -> list[str]:
    """Splits that a stage would refuse, because too few of their clips can be used."""
    splits: dict[str, set[str]] = {}
    for row in annotations.rows:
        splits.setdefault(row.id, set()).add(row.split)
    lacking = []
    for split in SPLITS:
        inside = [id_ for id_ in splits if split in splits[id_]]
        can_be_used = [id_ for id_ in inside if id_ in usable]
        if inside and not can_be_used:
            lacking.append(f"{split}: expected usable clips, got none")
        elif inside and split != "test" and all(len(splits[id_]) > 1 for id_ in can_be_used):
            lacking.append(f"{split}: expected usable clips that are in no other split, got none")
    return lacking


def _not_teaching_background(
    annotations: Annotations, usable: set[str], weak: WeakParams
) -> list[str]:
    """Why weak supervision would refuse the train split (cace/features/tags.py)."""
    train = [row for row in annotations.rows if row.split == "train" and row.id in usable]
    tags = {row.category if row.start < row.end else annotations.background for row in train}
    mismatch = weak.mismatch if weak.form == "common" else 0.0
    if train and mismatch and len(tags) < 2:
        return [
            "train: all clips have the same tag, so weak supervision has no mismatched pairs of "
            "vision and sound; it needs clips of other categories"
        ]
    if train and not mismatch and annotations.background not in tags:
        return [
            "train: no clip is without an event, which weak supervision needs if it has no "
            "mismatched pairs (weak.mismatch is 0, or weak.form is released)"
        ]
    return []


def _not_learnable(annotations: Annotations) -> list[str]:
    """Categories that cannot be learned, and splits without an event."""
    with_event = {row.split for row in annotations.rows if row.start < row.end}
    without = {row.split for row in annotations.rows} - with_event
    lines = [f"{s}: expected rows with an event, got none" for s in SPLITS if s in without]
    if "train" in with_event:
        lines += [
            f"category {category!r} has no event in train, so it cannot be learned"
            for category in unlearned(annotations)
        ]
    return lines


def _against_index(
    folder: Path, found: dict[str, Path], index: pd.DataFrame
) -> tuple[list[str], list[str]]:
    """Changes since the folder was indexed; and remarks."""
    if index["id"].isin(list(found)).any():
        try:
            now = index_of({**found, **label_files(folder)})
        except OSError as error:
            return [f"{error.filename}: {error.strerror}"], []
        return [f"{line} since it was indexed" for line in differences(index, now)], []
    if len(index):
        return [], [f"{INDEX} is of another folder; run `cace index {folder}`"]
    return [], []


def _names(folder: Path, annotations: Annotations, found: dict[str, Path]) -> list[str]:
    """Remarks on names: of categories, of ids, and of files that are not used."""
    remarks = [
        f"categories {one!r} and {other!r} are nearly the same; write them alike if they are one"
        for one, other in near_twins(annotations.categories)
    ]
    folded: dict[str, str] = {}
    for id_ in annotations.ids:
        if (other := folded.setdefault(id_.casefold(), id_)) != id_:
            remarks.append(f"{other}, {id_}: differ only in case, which some systems ignore")
    for path in other_files(folder, found):
        id_ = id_of(path)
        if id_ in found:
            why = f"not used, as {found[id_].name} is"
        elif path.suffix.lower() in VIDEO_ENDINGS and not path.is_file():
            why = "not used, as it is no file: a folder, a pipe, or a link that leads nowhere"
        elif id_ in annotations.ids:
            why = f"not used; expected {', '.join(VIDEO_ENDINGS)}"
        elif similar := folded.get(id_.casefold()):
            why = f"not annotated, ignored; {similar} is"
        else:
            why = "not annotated, ignored"
        name = path.name if path.name.isprintable() else ascii(path.name)
        remarks.append(f"{name}: {why}")
    return remarks


def _padded(clips: pd.DataFrame) -> list[str]:
    return [
        f"{row.id}: padded, with {row.picture_seconds:.2f} s of picture and "
        f"{row.sound_seconds:.2f} s of sound"
        for row in clips[clips["padded"].astype(bool)].itertuples()
    ]


def _summary(annotations: Annotations, clips: pd.DataFrame) -> pd.DataFrame:
    rows = annotations.rows
    per_split = Counter(row.split for row in rows)
    lengths = [row.end - row.start for row in rows]
    entries = {
        "clips": f"{len(clips)}, of which {int(clips['usable'].sum())} can be used",
        "splits": ", ".join(f"{split} {per_split[split]}" for split in SPLITS),
        "categories": _counted(annotations.categories[row.category] for row in rows),
        "events": f"{sum(length > 0 for length in lengths)}; rows last {min(lengths)} to "
        f"{max(lengths)} s, on average {sum(lengths) / len(lengths):.1f} s"
        if lengths
        else "none",
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

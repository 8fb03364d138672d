"""The released labels of AVE: label, order and annotation files, checked against one another.

A row is a sample: line `row` of `Annotations.txt`, counted from 0 without the header, and place
`row` of every HDF5 file. Where the files differ about a row, `labels.h5` is right: published
results are scored against it.
"""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

from cace.conventions import SEGMENTS, SPLITS
from cace.data.annotations import (
    AVE_CATEGORIES,
    RELEASED_KEY,
    Annotations,
    Line,
    Row,
    clip_tags,
    read_lines,
    save_annotations,
    segment_labels,
)
from cace.data.manifest import MANIFEST
from cace.system.errors import UserError, listed
from cace.system.files import expect_file, publish, sha256, write_json
from cace.system.hdf5 import dataset, opened
from cace.system.scratch import scratch

# The axes of each file's data set. labels.h5 comes first: the others must have the same sizes.
# H twice: the grid must be square, so maps with the channels first are refused.
AXES = {
    "labels.h5": ("N", "T", "C+1"),
    "mil_labels.h5": ("N", "C+1"),
    "labels_closs.h5": ("N", "T"),
    "audio_feature.h5": ("N", "T", "A"),
    "visual_feature.h5": ("N", "T", "H", "H", "V"),
    "audio_feature_noisy.h5": ("M", "T", "A"),  # M clips without an event
    "visual_feature_noisy.h5": ("M", "T", "H", "H", "V"),
}
# Clips without an event, for weak supervision: used if they are there, never downloaded.
WITHOUT_EVENT = ("visual_feature_noisy.h5", "audio_feature_noisy.h5")
ORDER_KEY = "order"
# By split, the rows of cross-modality localization: another split than that of *_order.h5.
MATCHING_ORDER = {split: f"{split}_order_match.h5" for split in SPLITS}
# Localizers run without them: labels for checks, tags, and the files of the other tasks.
OPTIONAL = ("mil_labels.h5", "labels_closs.h5", *WITHOUT_EVENT, *MATCHING_ORDER.values())
# AVE has 2 rows of 4,143. Annotations shifted by one line differ in half of them.
MAX_DIFFERENT = 0.1


class Released(NamedTuple):
    """The content of the released files."""

    annotations: Annotations
    labels: Int[np.ndarray, "N T"]  # of labels.h5; a row may have two events
    tags: Int[np.ndarray, " N"]  # the category of each clip, or background
    differences: dict[int, str]  # by row: the events in each file, if the files do not agree


def read_released(media: Path) -> Released:
    """Reads all files but those of the features, of which it checks only the shapes.

    Raises: UserError with every problem of the files, each with its row.
    """
    problems: list[str] = []
    lines = read_lines(media / "Annotations.txt", problems)
    _stop_at(problems, media)  # a row that cannot be read would shift all that follow
    sizes = _check_shapes(media, problems)
    if sizes.get("N", len(lines)) != len(lines):
        problems.append(
            f"Annotations.txt: expected {sizes['N']} rows as in labels.h5, got {len(lines)}"
        )
    split_of = _read_splits(media, len(lines), problems)
    categories = _categories(lines, sizes.get("C+1"), problems)
    _stop_at(problems, media)

    one_hot = read_data(media / "labels.h5")
    _stop_at(_not_one_hot(one_hot), media)
    labels = one_hot.argmax(axis=2)
    rows = (
        Row(line.id, categories.index(line.category), line.start, line.end, split)
        for line, split in zip(lines, split_of, strict=True)
    )
    annotations = Annotations(categories, tuple(rows))
    differences = _differences(media, annotations, labels)
    if len(differences) > MAX_DIFFERENT * len(lines):
        raise UserError(
            f"{media}: the files do not belong together: they differ about {len(differences)} of "
            f"{len(lines)} rows:{listed(list(differences.values()), most=10)}"
        )
    if len(lonely := [name for name in WITHOUT_EVENT if (media / name).exists()]) == 1:
        problems.append(f"{lonely[0]}: expected its other half, {' and '.join(WITHOUT_EVENT)}")
    _stop_at(problems, media)
    return Released(annotations, labels, _tags(media, labels, len(categories)), differences)


def write_labels(media: Path, out: Path, metrics: Path) -> None:
    """Writes labels and splits instead of decoded clips; prints the rows that differ.

    out: gets `annotations.json`, `labels.npy` and `tags.npy`.
    metrics: the JSON file for the counts.
    """
    manifest = sha256(expect_file(media / MANIFEST, made_by="download"))
    annotations, labels, tags, differences = read_released(media)
    if differences:
        shown = "\n  ".join(differences.values())
        print(f"decode: {len(differences)} rows differ; labels.h5 is used:\n  {shown}")
    splits = [row.split for row in annotations.rows]
    without_event = np.flatnonzero((labels == annotations.background).all(axis=1))
    with scratch("decode", manifest) as work:
        clips = work / "clips"
        clips.mkdir(exist_ok=True)
        save_annotations(clips / "annotations.json", annotations)
        for name, values in (("labels.npy", labels), ("tags.npy", tags)):
            np.save(clips / f".{name}", values)
            (clips / f".{name}").replace(clips / name)  # DVC may share the older file
        counts = {"clips": len(annotations.ids), "rows": len(annotations.rows)}
        per_split = {split: splits.count(split) for split in SPLITS}
        rows = {"without_event": without_event.tolist(), "labels_differ": list(differences)}
        write_json(metrics, {"decode": {**counts, **per_split, **rows}})
        publish(clips, out)


GET_AGAIN = "get it again, then `dvc repro -f download`"


def _stop_at(problems: list[str], media: Path) -> None:
    if problems:
        raise UserError(
            f"{media}: {len(problems)} problems in the released files:{listed(problems)}\n"
            f"Get these files again, then `dvc repro -f download`"
        )


def read_data(path: Path, key: str = RELEASED_KEY) -> Shaped[np.ndarray, "..."]:
    """The one data set of a released file."""
    with opened(path, GET_AGAIN) as file:
        return dataset(file, key)[:]


def _shape(path: Path, key: str, problems: list[str]) -> tuple[int, ...] | None:
    """Shape of the data set; None, and a new problem, if there is none."""
    try:
        with opened(path, GET_AGAIN) as file:
            return dataset(file, key).shape
    except UserError as error:
        problems.append(str(error))
    return None


def _check_shapes(media: Path, problems: list[str]) -> dict[str, int]:
    """Size of each axis, by its letter."""
    sizes = {"T": SEGMENTS}
    for name, axes in AXES.items():
        if name in OPTIONAL and not (media / name).exists():
            continue
        if (shape := _shape(media / name, RELEASED_KEY, problems)) is None:
            continue
        known = ", ".join(
            f"{axis} = {sizes[axis]}" for axis in dict.fromkeys(axes) if axis in sizes
        )
        if len(shape) != len(axes) or any(
            sizes.setdefault(axis, size) != size for axis, size in zip(axes, shape, strict=True)
        ):
            problems.append(f"{name}: expected [{', '.join(axes)}] with {known}, got {list(shape)}")
    return sizes


def _read_splits(media: Path, count: int, problems: list[str]) -> list[str]:
    """Split of each row; the order files must name every row once."""
    split_of = [""] * count
    for split in SPLITS:
        name = f"{split}_order.h5"
        if (shape := _shape(media / name, ORDER_KEY, problems)) is None:
            continue
        order = read_data(media / name, ORDER_KEY)
        if len(shape) != 1 or not len(order) or order.dtype.kind not in "iu":
            problems.append(f"{name}: expected row numbers [n], got {order.dtype} {list(shape)}")
            continue
        for row in order.tolist():
            if not 0 <= row < count:
                problems.append(f"{name}: row {row} is not one of 0 to {count - 1}")
            elif split_of[row]:
                problems.append(f"{name}: row {row} is in {split_of[row]}_order.h5 already")
            else:
                split_of[row] = split
    problems += [f"row {row} is in no order file" for row in range(count) if not split_of[row]]
    return split_of


def _categories(lines: list[Line], columns: int | None, problems: list[str]) -> tuple[str, ...]:
    """Names by column: the published order if the names are AVE's, else by first appearance."""
    found = tuple(dict.fromkeys(line.category for line in lines))
    if columns == len(AVE_CATEGORIES) + 1 and set(found) <= set(AVE_CATEGORIES):
        return AVE_CATEGORIES
    if columns is not None and columns != len(found) + 1:
        problems.append(
            f"labels.h5: expected {len(found) + 1} columns, as Annotations.txt has {len(found)} "
            f"categories and the background, got {columns}"
        )
    return found


def _not_one_hot(one_hot: Shaped[np.ndarray, "N T C1"]) -> list[str]:
    ones, zeros = one_hot == 1, one_hot == 0
    good = (ones | zeros).all(axis=2) & (ones.sum(axis=2) == 1)
    return [
        f"labels.h5, row {row}: expected one 1 and 0 elsewhere in each segment, not so in segments "
        f"{np.flatnonzero(~good[row]).tolist()}"
        for row in np.flatnonzero(~good.all(axis=1))
    ]


def _tags(media: Path, labels: Int[np.ndarray, "N T"], background: int) -> Int[np.ndarray, " N"]:
    """The largest category in the labels of a clip.

    Of a clip without any event, the category in mil_labels.h5, where that file names one.
    """
    tags = clip_tags(labels, background)
    file = media / "mil_labels.h5"
    if file.exists():
        of_clip = read_data(file)[:, :background] == 1
        named = (tags == background) & (of_clip.sum(axis=1) == 1)
        tags[named] = of_clip[named].argmax(axis=1)
    return tags


def _differences(
    media: Path, annotations: Annotations, labels: Int[np.ndarray, "N T"]
) -> dict[int, str]:
    """The events of a row in each file, for the rows about which the files do not agree."""
    names, background = annotations.categories, annotations.background
    annotated = segment_labels(annotations)
    events = {"labels.h5": _events(labels, names), "Annotations.txt": _events(annotated, names)}
    differ: Bool[np.ndarray, " N"] = (labels != annotated).any(axis=1)
    if (media / "labels_closs.h5").exists():
        is_event = read_data(media / "labels_closs.h5")
        differ |= (is_event != (labels != background)).any(axis=1)
        events["labels_closs.h5"] = _events(np.where(is_event == 1, 0, 1), ("event",))
    if (media / "mil_labels.h5").exists():
        of_clip = read_data(media / "mil_labels.h5")
        present = (labels[:, :, None] == np.arange(background + 1)).any(axis=1)
        has_event = present[:, :background].any(axis=1)
        present[:, background] = False
        # In that file even a clip without any event has a category.
        differ |= has_event & (of_clip != present).any(axis=1)
        every = np.array([*names, "background"])
        events["mil_labels.h5"] = [" and ".join(every[row == 1]) for row in of_clip]
    return {
        int(row): f"row {row}, {annotations.rows[row].id} ({annotations.rows[row].split}): "
        + "; ".join(f"{name} has {texts[row] or 'no event'}" for name, texts in events.items())
        for row in np.flatnonzero(differ)
    }


def _events(labels: Int[np.ndarray, "N T"], names: tuple[str, ...]) -> list[str]:
    """The events of each row in words, such as "Bark 0-5 and Truck 5-10"."""
    texts = []
    for row in labels:
        edges = [0, *(np.flatnonzero(np.diff(row)) + 1), len(row)]
        events = [
            f"{names[row[start]]} {start}-{end}"
            for start, end in itertools.pairwise(edges)
            if row[start] < len(names)
        ]
        texts.append(" and ".join(events))
    return texts

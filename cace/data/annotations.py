"""Categories, annotation rows, splits and segment labels, in the layout of the AVE data set.

`Annotations.txt` has one row per line, `Category&VideoID&Quality&StartTime&EndTime` (whole seconds,
end exclusive), with or without a header line; `trainSet.txt`, `valSet.txt` and `testSet.txt` repeat
rows of it. A row is a sample; an id names a file. In AVE some ids have two rows, each with another
category.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from cace.conventions import SEGMENTS, SPLITS
from cace.system.errors import UserError, listed
from cace.system.files import expect_file, read_text, write_json

HELD_OUT_SHARE = 0.1  # of a category's files for val, and as many for test, if splits are made
SPLIT_SEED = 0
LONGEST_ID = 200  # bytes; file systems allow 255, with all that is added to the id
RELEASED_KEY = "avadataset"  # name of the data set in AVE's released HDF5 files

AVE_CATEGORIES = (  # in the published order: the index is the label
    "Church bell",
    "Male speech, man speaking",
    "Bark",
    "Fixed-wing aircraft, airplane",
    "Race car, auto racing",
    "Female speech, woman speaking",
    "Helicopter",
    "Violin, fiddle",
    "Flute",
    "Ukulele",
    "Frying (food)",
    "Truck",
    "Shofar",
    "Motorcycle",
    "Acoustic guitar",
    "Train horn",
    "Clock",
    "Banjo",
    "Goat",
    "Baby cry, infant cry",
    "Bus",
    "Chainsaw",
    "Cat",
    "Horse",
    "Toilet flush",
    "Rodents, rats, mice",
    "Accordion",
    "Mandolin",
)


def known_categories(source: str) -> tuple[str, ...] | None:
    """The categories of a source in the order of their labels; None: by first appearance."""
    return AVE_CATEGORIES if source in ("mini", "ave", "released") else None


class Row(NamedTuple):
    """One annotated clip: from second `start` to second `end` (exclusive) it contains an event."""

    id: str
    category: int
    start: int
    end: int
    split: str


class Annotations(NamedTuple):
    """Category names by index, and all rows in the order of `Annotations.txt`."""

    categories: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def background(self) -> int:
        """Label of a segment without an event: the index after the last category."""
        return len(self.categories)

    @property
    def ids(self) -> tuple[str, ...]:
        """Each clip file once, in the order of first appearance."""
        return tuple(dict.fromkeys(row.id for row in self.rows))


class Line(NamedTuple):
    """One row of a file; `number` is its line, counted from 1."""

    number: int
    category: str
    id: str
    start: int
    end: int


def read_annotations(folder: Path, categories: tuple[str, ...] | None = None) -> Annotations:
    """Reads an AVE-layout folder; without `categories` they are numbered by first appearance.

    If there is no split file, splits are made (`make_splits`).
    Raises: UserError with every problem of the files, each with its line number.
    """
    problems: list[str] = []
    lines = read_lines(folder / "Annotations.txt", problems)
    names = categories or tuple(dict.fromkeys(line.category for line in lines))
    problems += [
        f"Annotations.txt, line {line.number}: category {line.category!r} is not one of "
        f"the {len(names)} categories of this source"
        for line in lines
        if line.category not in names
    ]
    split_of = _read_splits(folder, lines, problems)
    if not lines and not problems:
        problems.append("Annotations.txt: expected one row per clip, got none")
    if problems:
        raise UserError(f"{folder}: {len(problems)} problems in the annotations:{listed(problems)}")
    return Annotations(
        names,
        tuple(
            Row(
                line.id,
                names.index(line.category),
                line.start,
                line.end,
                split_of[line.category, line.id],
            )
            for line in lines
        ),
    )


def read_lines(path: Path, problems: list[str]) -> list[Line]:
    """The rows of an annotation or split file, without its header; extends `problems`.

    Raises: UserError if the file is missing, or is not text.
    """
    if not path.is_file():
        raise UserError(f"{path}: not there; expected an AVE-layout folder with this file in it")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text, got other bytes ({error})") from error
    lines = []
    for number, content in enumerate(text.split("\n"), start=1):
        is_header = number == 1 and content.startswith("Category&")
        if not content.strip() or is_header:
            continue
        line = _parse(content, number)
        if isinstance(line, str):
            problems.append(f"{path.name}, line {number}: {line}, got {content!r}")
        else:
            lines.append(line)
    return lines


def _parse(content: str, number: int) -> Line | str:
    """The line, or what is wrong with it."""
    fields = content.strip().split("&")
    if len(fields) != 5:
        return "expected Category&VideoID&Quality&StartTime&EndTime"
    category, id_, _quality, start, end = fields
    if not (category and category.isprintable() and is_safe_id(id_)):
        return "expected a printable category and a plain file name as id"
    if not (start.isdecimal() and end.isdecimal() and int(start) <= int(end) <= SEGMENTS):
        return f"expected whole seconds 0 <= start <= end <= {SEGMENTS}"
    return Line(number, category, id_, int(start), int(end))


def is_safe_id(id_: str) -> bool:
    """An id becomes a file name: no path parts, no control characters, not too long for one."""
    plain = id_.isprintable() and not set(id_) & set("/\\:") and id_ not in ("", ".", "..")
    return plain and len(id_.encode()) <= LONGEST_ID


def _read_splits(
    folder: Path, lines: list[Line], problems: list[str]
) -> dict[tuple[str, str], str]:
    """Split of each (category, id); every row must be in exactly one."""
    expected: dict[tuple[str, str], int] = {}
    for line in lines:
        key = line.category, line.id
        if key in expected:
            problems.append(
                f"Annotations.txt, line {line.number}: {line.id} with category {line.category!r} "
                f"is in line {expected[key]} already"
            )
        expected[key] = line.number
    if not any((folder / f"{split}Set.txt").exists() for split in SPLITS):
        return make_splits(lines, problems)
    split_of: dict[tuple[str, str], str] = {}
    for split in SPLITS:
        for line in read_lines(folder / f"{split}Set.txt", problems):
            key = line.category, line.id
            where = f"{split}Set.txt, line {line.number}: {line.id} ({line.category})"
            if key not in expected:
                problems.append(f"{where} is not in Annotations.txt")
            elif key in split_of:
                problems.append(f"{where} is in {split_of[key]}Set.txt already")
            else:
                split_of[key] = split
    problems += [
        f"Annotations.txt, line {number}: {key[1]} ({key[0]}) is in no split file"
        for key, number in expected.items()
        if key not in split_of
    ]
    return split_of


def make_splits(lines: list[Line], problems: list[str]) -> dict[tuple[str, str], str]:
    """Split of each (category, id), stratified by category; the same every time.

    All rows of a file are in one split. A category of fewer than three files is only used for
    training. Adding a clip later changes the split of few others.
    """
    category_of: dict[str, str] = {}
    for line in lines:
        category_of.setdefault(line.id, line.category)
    files: dict[str, list[str]] = {}
    for id_ in sorted(
        category_of, key=lambda i: hashlib.sha256(f"{SPLIT_SEED} {i}".encode()).digest()
    ):
        files.setdefault(category_of[id_], []).append(id_)
    split_of = dict.fromkeys(category_of, "train")
    for ids in files.values():
        held_out = max(1, round(HELD_OUT_SHARE * len(ids))) if len(ids) >= len(SPLITS) else 0
        split_of.update(dict.fromkeys(ids[:held_out], "test"))
        split_of.update(dict.fromkeys(ids[held_out : 2 * held_out], "val"))
    if lines and "test" not in split_of.values():
        problems.append(
            f"Annotations.txt: expected a category with at least {len(SPLITS)} clips to make "
            f"splits from, got none; add clips, or write trainSet.txt, valSet.txt, testSet.txt"
        )
    return {(line.category, line.id): split_of[line.id] for line in lines}


def segment_labels(annotations: Annotations) -> Int[np.ndarray, "N T"]:
    """Category index of each segment of each row, the background label outside the event."""
    labels = np.full((len(annotations.rows), SEGMENTS), annotations.background, np.int64)
    for label, row in zip(labels, annotations.rows, strict=True):
        label[row.start : row.end] = row.category
    return labels


def save_annotations(path: Path, annotations: Annotations) -> None:
    """Writes annotations as JSON, so that later stages do not read the text files again."""
    rows = [row._asdict() for row in annotations.rows]
    write_json(path, {"categories": annotations.categories, "rows": rows})


def load_annotations(path: Path) -> Annotations:
    """Reads what `save_annotations` wrote."""
    content = json.loads(read_text(expect_file(path, made_by="decode")))
    return Annotations(tuple(content["categories"]), tuple(Row(**row) for row in content["rows"]))

"""Categories, annotation rows, splits and segment labels, in the layout of the AVE data set.

`Annotations.txt` has one row per line, `Category&VideoID&Quality&StartTime&EndTime` (whole seconds,
end exclusive), with or without a header line; `trainSet.txt`, `valSet.txt` and `testSet.txt` repeat
rows of it. A row is a sample; an id names a file. In AVE some ids have two rows, each with another
category. Spaces around a field do not count, and accents may be written in either way of Unicode.
"""

import codecs
import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from cace.conventions import SEGMENTS, SPLITS
from cace.system.errors import UserError, listed, shown
from cace.system.files import expect_file, read_text, reading, write_json

HELD_OUT_SHARE = 0.1  # of a category's files for val, and as many for test, if splits are made
SPLIT_SEED = 0
LONGEST_ID = 200  # bytes; file systems allow 255, with all that is added to the id
LONGEST_CATEGORY = 200  # characters
TEXTS = ("Annotations.txt", *(f"{split}Set.txt" for split in SPLITS))
BACKGROUND = "background"  # label of a segment without an event, in tables
# Spreadsheets and pandas read these as an empty cell.
EMPTY = (
    *("none", "null", "nan", "-nan", "na", "n/a", "#n/a", "#n/a n/a", "#na", "<na>"),
    *("1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"),
)
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
    annotations, problems = examine_annotations(folder, categories)
    if problems:
        raise UserError(f"{folder}: {len(problems)} problems in the annotations:{listed(problems)}")
    return annotations


def examine_annotations(
    folder: Path, categories: tuple[str, ...] | None = None
) -> tuple[Annotations, list[str]]:
    """The readable rows of an AVE-layout folder, and every problem of its files.

    If there are problems, the split of a row may be empty, and a category not one of `categories`.
    Raises: UserError if `Annotations.txt` is missing, or is UTF-16.
    """
    problems: list[str] = []
    lines = read_lines(folder / "Annotations.txt", problems)
    names = tuple(dict.fromkeys((*(categories or ()), *(line.category for line in lines))))
    problems += [
        f"Annotations.txt, line {line.number}: category {line.category!r} is not one of "
        f"the {len(categories)} categories of this source"
        for line in lines
        if categories and line.category not in categories
    ]
    if not lines and not problems:
        problems.append("Annotations.txt: expected one row per clip, got none")
    split_of = _read_splits(folder, lines, problems)
    rows = (
        Row(
            line.id,
            names.index(line.category),
            line.start,
            line.end,
            split_of.get((line.category, line.id), ""),
        )
        for line in lines
    )
    return Annotations(names, tuple(rows)), problems


def unlearned(annotations: Annotations) -> list[str]:
    """Categories with an event in val or test but none in train: a model cannot learn them."""
    events = {(row.category, row.split) for row in annotations.rows if row.start < row.end}
    learned = {category for category, split in events if split == "train"}
    others = {category for category, split in events if split in ("val", "test")}
    return [annotations.categories[category] for category in sorted(others - learned)]


def near_twins(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ only in case, width, spaces or punctuation."""
    first: dict[str, str] = {}
    twins = []
    for name in dict.fromkeys(names):
        folded = unicodedata.normalize("NFKC", name).casefold()
        key = "".join(c for c in folded if c.isalnum() or unicodedata.combining(c)) or folded
        if key in first:
            twins.append((first[key], name))
        first.setdefault(key, name)
    return twins


def read_lines(path: Path, problems: list[str]) -> list[Line]:
    """The rows of an annotation or split file, without its header; extends `problems`.

    Raises: UserError if the file is missing, or is UTF-16.
    """
    if not path.is_file():
        raise UserError(f"{path}: not there; expected an AVE-layout folder with this file in it")
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{path}: expected UTF-8 text, got UTF-16 or UTF-32; save it as UTF-8")
    lines = []
    for number, raw in enumerate(data.removeprefix(codecs.BOM_UTF8).splitlines(), start=1):
        try:
            content = raw.decode()
        except UnicodeDecodeError:
            problems.append(f"{path.name}, line {number}: expected UTF-8 text, got {shown(raw)}")
            continue
        is_header = number == 1 and content.strip().startswith("Category&")
        if not content.strip() or is_header:
            continue
        line = _parse(content, number)
        if isinstance(line, str):
            problems.append(f"{path.name}, line {number}: {line}, got {shown(content)}")
        else:
            lines.append(line)
    return lines


def _parse(content: str, number: int) -> Line | str:
    """The line, or what is wrong with it."""
    fields = [field.strip() for field in unicodedata.normalize("NFC", content).split("&")]
    if len(fields) != 5:
        return "expected Category&VideoID&Quality&StartTime&EndTime, with no & in a field"
    category, id_, _quality, start, end = fields
    if not (category and category.isprintable() and is_safe_id(id_)):
        return "expected a printable category and a plain file name as id"
    if len(category) > LONGEST_CATEGORY:
        return f"expected a category of at most {LONGEST_CATEGORY} characters"
    if category.casefold() == BACKGROUND:
        return (
            "expected the category of an event, as background is the label of segments without "
            "one; a clip without an event has one of your categories, and start = end"
        )
    if category.casefold() in EMPTY:
        return "expected a category that tables do not read as an empty cell"
    seconds = [int(text) if text.isdecimal() and len(text) < 10 else -1 for text in (start, end)]
    if not 0 <= seconds[0] <= seconds[1] <= SEGMENTS:
        return f"expected whole seconds 0 <= start <= end <= {SEGMENTS}"
    return Line(number, category, id_, *seconds)


def is_safe_id(id_: str) -> bool:
    """An id becomes a file name: no path parts, no control characters, not too long for one."""
    plain = id_.isprintable() and not set(id_) & set("/\\:")
    plain = plain and id_ not in ("", ".", "..", *TEXTS)
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
                f"is in line {expected[key]} already; a clip has one row, and so one event, of a "
                f"category"
            )
        expected.setdefault(key, line.number)
    if not any(os.path.lexists(folder / f"{split}Set.txt") for split in SPLITS):
        if misnamed := _misnamed(folder):
            problems += misnamed
            return {}
        return make_splits(lines, problems)
    split_of: dict[tuple[str, str], str] = {}
    for split in SPLITS:
        before = len(problems)
        try:
            repeated = read_lines(folder / f"{split}Set.txt", problems)
        except UserError as error:
            problems.append(str(error))
            continue
        if not repeated and len(problems) == before:
            problems.append(f"{split}Set.txt: expected rows, got none; every split needs clips")
        for line in repeated:
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


def _misnamed(folder: Path) -> list[str]:
    """Files that have the name of a split file, but for capital letters."""
    right = {f"{split}set.txt": f"{split}Set.txt" for split in SPLITS}
    return [
        f"{name}: expected it to be named {right[name.lower()]}"
        for name in sorted(path.name for path in folder.iterdir())
        if name.lower() in right
    ]


def make_splits(lines: list[Line], problems: list[str]) -> dict[tuple[str, str], str]:
    """Split of each (category, id), stratified by category; the same every time.

    All rows of a file are in one split. Every category is in train; one of fewer than three files
    is nowhere else. Adding a clip later changes the split of few others.
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
    for category in dict.fromkeys(line.category for line in lines):
        # A file with two categories was chosen for its first one.
        ids = [line.id for line in lines if line.category == category]
        if all(split_of[id_] != "train" for id_ in ids):
            split_of.update(dict.fromkeys(ids, "train"))
    if lines and not {"val", "test"} <= set(split_of.values()):
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


def clip_tags(labels: Int[np.ndarray, "N T"], background: int) -> Int[np.ndarray, " N"]:
    """The category of each clip (the largest, if it has two), or the background label."""
    largest = np.where(labels == background, -1, labels).max(axis=1)
    return np.where(largest < 0, background, largest)


def save_annotations(path: Path, annotations: Annotations) -> None:
    """Writes annotations as JSON, so that later stages do not read the text files again."""
    rows = [row._asdict() for row in annotations.rows]
    write_json(path, {"categories": annotations.categories, "rows": rows})


def load_annotations(path: Path) -> Annotations:
    """Reads what `save_annotations` wrote."""
    with reading(expect_file(path, made_by="decode"), made_by="decode"):
        content = json.loads(read_text(path))
        rows = tuple(Row(**row) for row in content["rows"])
        return Annotations(tuple(content["categories"]), rows)

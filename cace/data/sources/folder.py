"""Sources folder and ave: clips that the user has already, in the AVE layout."""

import contextlib
import errno
import io
import os
import shutil
import unicodedata
from pathlib import Path

import pandas as pd

from cace.conventions import VIDEO_ENDINGS
from cace.data.annotations import TEXTS, Annotations
from cace.paths import INDEX
from cace.system.errors import UserError, listed, shown
from cace.system.files import name_as_text, read_text, sha256, temporary_beside
from cace.system.workers import progress

INDEX_COLUMNS = ("id", "file", "bytes", "sha256")


def find_clips(folder: Path, annotations: Annotations) -> dict[str, Path]:
    """The file of each annotated id that has one, under `folder/AVE`.

    Raises: UserError if there is no clip at all.
    """
    files = {(id_of(path), path.suffix.lower()): path for path in clip_files(folder)}
    found = {}
    for id_ in annotations.ids:
        if ending := next((e for e in VIDEO_ENDINGS if (id_, e) in files), None):
            found[id_] = files[id_, ending]
    if not found:
        raise UserError(
            f"{folder / 'AVE'}: expected the annotated clips as <id>.mp4 (or "
            f"{', '.join(VIDEO_ENDINGS[1:5])}, ...), got none of {len(annotations.ids)}"
        )
    return found


def id_of(path: Path) -> str:
    """The id that a clip's file name has, written as `read_annotations` writes ids.

    File names are read as UTF-8 in every locale. macOS may write an accent as a separate character.
    """
    return unicodedata.normalize("NFC", name_as_text(path.stem)).strip()


def shared_files(clips: dict[str, Path], annotations: Annotations) -> list[tuple[str, ...]]:
    """Ids whose files have the same content, though not all of them are in the same split."""
    by_size: dict[int, list[str]] = {}
    for id_, path in clips.items():
        by_size.setdefault(path.stat().st_size, []).append(id_)
    by_hash: dict[str, list[str]] = {}
    for ids in by_size.values():
        for id_ in ids if len(ids) > 1 else ():
            with contextlib.suppress(OSError):  # decoding gives the reason
                by_hash.setdefault(sha256(clips[id_]), []).append(id_)
    splits: dict[str, set[str]] = {}
    for row in annotations.rows:
        splits.setdefault(row.id, set()).add(row.split)
    return [
        tuple(ids)
        for ids in by_hash.values()
        if len(ids) > 1 and len(set().union(*(splits[id_] for id_ in ids))) > 1
    ]


def clip_files(folder: Path) -> list[Path]:
    """All files under `folder/AVE` that may be clips, annotated or not."""
    return [p for p in _inside(folder) if p.suffix.lower() in VIDEO_ENDINGS and p.is_file()]


def other_files(folder: Path, found: dict[str, Path]) -> list[Path]:
    """What else is under `folder/AVE`, but for hidden files."""
    used = set(found.values())
    return [p for p in _inside(folder) if p not in used and not p.name.startswith(".")]


def _inside(folder: Path) -> list[Path]:
    return sorted((folder / "AVE").iterdir()) if (folder / "AVE").is_dir() else []


def label_files(folder: Path) -> dict[str, Path]:
    """The annotation and split files that exist, by name."""
    return {name: folder / name for name in TEXTS if (folder / name).exists()}


def copy_clips(folder: Path, clips: dict[str, Path], into: Path) -> None:
    """Copies the annotation files, and the clips that are not there yet.

    Never as hard links: DVC makes its files read-only, and the user's files would become so too.
    """
    (into / "AVE").mkdir(parents=True, exist_ok=True)
    for name, path in label_files(folder).items():
        copy_file(path, into / name)
    for path in progress(clips.values(), "download: clips copied"):
        if not (into / "AVE" / path.name).exists():
            copy_file(path, into / "AVE" / path.name)


def index_of(files: dict[str, Path]) -> pd.DataFrame:
    """Id, file name, size and hash of each clip and each annotation file, sorted by id."""
    entries = [
        {
            "id": id_,
            "file": name_as_text(path.name),
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
        for id_, path in progress(sorted(files.items()), "hashes")
    ]
    return pd.DataFrame(entries, columns=INDEX_COLUMNS)


def read_index(path: Path) -> pd.DataFrame:
    """The index that `cace index` wrote; it has no rows if no folder was indexed.

    Raises: UserError if it is missing, or is not such a table.
    """
    repair = f"run `git checkout {path}`, or remove it and run `cace index FOLDER`"
    if not path.is_file():
        raise UserError(f"{path}: not there; {repair}")
    text = read_text(path)
    try:
        index = pd.read_csv(
            io.StringIO(text),
            dtype={"id": str, "file": str, "bytes": int, "sha256": str},
            keep_default_na=False,
        )
        if tuple(index.columns) != INDEX_COLUMNS:
            raise ValueError(f"expected the columns {', '.join(INDEX_COLUMNS)}")
        if twice := sorted(set(index.loc[index["id"].duplicated(), "id"])):
            raise ValueError(
                f"expected each id once, got {', '.join(map(shown, twice[:10]))} twice"
            )
    except (ValueError, OverflowError) as error:  # pandas' errors are ValueErrors
        raise UserError(f"{path}: not a table of `cace index`: {error}; {repair}") from None
    return index


def differences(indexed: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """What has changed in a folder since it was indexed, one line for each file."""
    before, now = (table.set_index("id")["sha256"] for table in (indexed, found))
    both = before.index.intersection(now.index)
    return [
        *(f"{id_}: added" for id_ in now.index.difference(before.index)),
        *(f"{id_}: gone" for id_ in before.index.difference(now.index)),
        *(f"{id_}: changed" for id_ in both[before[both] != now[both]]),
    ]


def expect_as_indexed(found: pd.DataFrame) -> None:
    """Compares clips and annotation files with the index, if there is one.

    Raises: UserError that lists what was added, is gone, or has changed.
    """
    index = read_index(INDEX)
    if index.empty:
        print(
            "download: this folder is not indexed, so its changes are not noticed; run `cace index "
            "FOLDER`"
        )
    elif changed := differences(index, found):
        raise UserError(
            f"data.path: the folder has changed since it was indexed in {INDEX}:{listed(changed)}\n"
            f"Run `cace index FOLDER`, or restore the files"
        )


def copy_file(source: Path, target: Path) -> None:
    """Copies a file completely or not at all; shares its blocks if the file system can."""
    temporary = temporary_beside(target)
    with source.open("rb") as original, temporary.open("wb") as copy:
        left = os.fstat(original.fileno()).st_size
        try:
            while left and (moved := os.copy_file_range(original.fileno(), copy.fileno(), left)):
                left -= moved
        except (AttributeError, OSError) as error:
            if getattr(error, "errno", errno.EXDEV) == errno.ENOSPC:
                raise
            original.seek(0)
            copy.seek(0)
            shutil.copyfileobj(original, copy)
    temporary.replace(target)

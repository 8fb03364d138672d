"""Sources folder and ave: clips that the user has already, in the AVE layout."""

import errno
import os
import shutil
from pathlib import Path

import pandas as pd

from cace.conventions import SPLITS
from cace.data.annotations import Annotations
from cace.paths import INDEX
from cace.system.errors import UserError, listed
from cace.system.files import expect_file, sha256, temporary_beside
from cace.system.workers import progress

INDEX_COLUMNS = ("id", "file", "bytes", "sha256")
CONTAINERS = (".mp4", ".mkv", ".webm", ".mov", ".avi")


def find_clips(folder: Path, annotations: Annotations) -> dict[str, Path]:
    """The file of each annotated id that has one, under `folder/AVE`.

    Raises: UserError if there is no clip at all.
    """
    files = {(path.stem, path.suffix.lower()): path for path in clip_files(folder)}
    found = {}
    for id_ in annotations.ids:
        if ending := next((e for e in CONTAINERS if (id_, e) in files), None):
            found[id_] = files[id_, ending]
    if not found:
        raise UserError(
            f"{folder / 'AVE'}: expected the annotated clips as <id>.mp4 (or "
            f"{', '.join(CONTAINERS[1:])}), got none of {len(annotations.ids)}"
        )
    return found


def clip_files(folder: Path) -> list[Path]:
    """All files under `folder/AVE` that may be clips, annotated or not."""
    everything = sorted((folder / "AVE").iterdir()) if (folder / "AVE").is_dir() else []
    return [path for path in everything if path.suffix.lower() in CONTAINERS and path.is_file()]


def label_files(folder: Path) -> dict[str, Path]:
    """The annotation and split files that exist, by name."""
    names = ("Annotations.txt", *(f"{split}Set.txt" for split in SPLITS))
    return {name: folder / name for name in names if (folder / name).exists()}


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
        {"id": id_, "file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
        for id_, path in progress(sorted(files.items()), "hashes")
    ]
    return pd.DataFrame(entries, columns=INDEX_COLUMNS)


def read_index(path: Path) -> pd.DataFrame:
    """The index that `cace index` wrote; it has no rows if no folder was indexed."""
    index = pd.read_csv(
        expect_file(path, made_by="download"), dtype={"id": str, "file": str}, keep_default_na=False
    )
    if tuple(index.columns) != INDEX_COLUMNS:
        raise UserError(
            f"{path}: expected the columns {', '.join(INDEX_COLUMNS)}, got "
            f"{', '.join(index.columns)}; run `cace index FOLDER`"
        )
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

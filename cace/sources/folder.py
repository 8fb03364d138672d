"""Sources folder and ave: clips that the user has already, in the AVE layout."""

import errno
import os
import shutil
from pathlib import Path

from cace.annotations import SPLITS, Annotations
from cace.errors import UserError
from cace.workspace import progress

CONTAINERS = (".mp4", ".mkv", ".webm", ".mov", ".avi")


def find_clips(folder: Path, annotations: Annotations) -> dict[str, Path]:
    """The file of each annotated id that has one, under `folder/AVE`.

    Raises: UserError where no clip at all is there.
    """
    found = {}
    for id_ in annotations.ids:
        candidates = (folder / "AVE" / f"{id_}{ending}" for ending in CONTAINERS)
        if (path := next((c for c in candidates if c.is_file()), None)) is not None:
            found[id_] = path
    if not found:
        raise UserError(
            f"{folder / 'AVE'}: expected the annotated clips as <id>.mp4 (or "
            f"{', '.join(CONTAINERS[1:])}), got none of {len(annotations.ids)}"
        )
    return found


def take(folder: Path, clips: dict[str, Path], into: Path) -> None:
    """Copies annotation files and clips that are not there yet.

    Never a hard link: DVC makes its files read-only.
    """
    (into / "AVE").mkdir(parents=True, exist_ok=True)
    for name in ("Annotations.txt", *(f"{split}Set.txt" for split in SPLITS)):
        copy_file(folder / name, into / name)
    for path in progress(clips.values(), "download: clips taken"):
        if not (into / "AVE" / path.name).exists():
            copy_file(path, into / "AVE" / path.name)


def copy_file(source: Path, target: Path) -> None:
    """Copies a file whole or not at all, sharing its blocks where the file system can."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
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

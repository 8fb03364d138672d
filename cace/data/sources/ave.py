"""Source ave: the released archive of AVE, downloaded or already here, unpacked and checked."""

import errno
import lzma
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cace.conventions import SPLITS
from cace.data.annotations import (
    AVE_CATEGORIES,
    TEXTS,
    Annotations,
    is_safe_id,
    read_annotations,
)
from cace.system.downloads import DRIVE, RemoteFile
from cace.system.errors import UserError, listed
from cace.system.workers import progress

ARCHIVE = RemoteFile(
    "AVE_Dataset.zip",
    DRIVE + "1FjKwe79e0u96vdjIVwfRQ1V6SoDHe7kK",
    "several GB",
)
# What zipfile and the decompressors that it uses raise for damaged archives.
DAMAGES = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(NotImplementedError, OverflowError, ValueError),
)
ENCRYPTED = 1  # bit of a member's flags


class Counts(NamedTuple):
    """The sizes of a data set."""

    rows: int
    ids: int
    train: int
    val: int
    test: int


PUBLISHED = Counts(rows=4143, ids=4097, train=3339, val=402, test=402)


def unpack(archive: Path, into: Path) -> None:
    """Writes the annotation files and clips of an archive; an interrupted run resumes.

    If any member could be written outside `into`, nothing of the archive is unpacked.
    Raises: UserError that names the archive, and the members that are wrong.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(archive, opened.infolist())
            left = {
                name: member
                for name, member in members.items()
                if _size(into / name) != member.file_size
            }
            (into / "AVE").mkdir(parents=True, exist_ok=True)
            needed, free = sum(m.file_size for m in left.values()), shutil.disk_usage(into).free
            if needed > free:
                raise UserError(
                    f"{archive}: expected {needed / 1e9:.1f} GB of free space to unpack it into "
                    f"{into}, got {free / 1e9:.1f} GB; free some space and try again"
                )
            for name, member in progress(left.items(), "download: files unpacked"):
                temporary = (into / name).with_name(f".{Path(name).name}.{os.getpid()}.tmp")
                with opened.open(member) as packed, temporary.open("wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
                temporary.replace(into / name)
    except DAMAGES as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # of the disk; a place outside the archive is "Invalid argument"
        raise UserError(
            f"{archive}: expected a complete zip file, got a damaged one ({error}); remove it and "
            f"get it again from {ARCHIVE.url}"
        ) from error


def check(media: Path, published: Counts = PUBLISHED) -> Annotations:
    """The annotations of an unpacked archive, which must be as published, with all clips.

    Raises: UserError with every difference, each with its row or clip.
    """
    annotations = read_annotations(media, AVE_CATEGORIES)
    found = Counts(
        len(annotations.rows),
        len(annotations.ids),
        *(sum(row.split == split for row in annotations.rows) for split in SPLITS),
    )
    differences = [
        f"{what}: expected {expected}, got {got}"
        for what, expected, got in zip(Counts._fields, published, found, strict=True)
        if got != expected
    ]
    differences += _out_of_order(annotations)
    clips = {path.stem for path in (media / "AVE").glob("*.mp4")}
    differences += [
        f"row {number}, {row.id} ({AVE_CATEGORIES[row.category]}, {row.split}): no AVE/{row.id}.mp4"
        for number, row in enumerate(annotations.rows)
        if row.id not in clips
    ]
    differences += [f"AVE/{id_}.mp4: in no row" for id_ in sorted(clips - set(annotations.ids))]
    if differences:
        raise UserError(
            f"{media}: {len(differences)} differences from the published data set (rows count from "
            f"0, without the header):{listed(differences)}\n"
            f"Get the archive again from {ARCHIVE.url}; to use it as it is, unpack it and "
            f"set data.path"
        )
    return annotations


def _out_of_order(annotations: Annotations) -> list[str]:
    """Rows where a category first appears that is not the next one in the published order."""
    firsts: dict[int, int] = {}
    for number, row in enumerate(annotations.rows):
        firsts.setdefault(row.category, number)
    return [
        f"row {number}: category {AVE_CATEGORIES[category]!r} appears as number {place}, expected "
        f"{AVE_CATEGORIES[place]!r}"
        for place, (category, number) in enumerate(firsts.items())
        if category != place
    ]


def _members(archive: Path, infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """The members of the AVE layout, by their path under its top folder.

    Raises: UserError if a member is dangerous, or the layout is not there exactly once.
    """
    if dangers := [f"{info.orig_filename!r}: {why}" for info in infos if (why := _danger(info))]:
        raise UserError(
            f"{archive}: expected plain files under plain names, got {len(dangers)} members that "
            f"are not; nothing was unpacked, get it from {ARCHIVE.url}:{listed(dangers)}"
        )
    paths = {PurePosixPath(info.filename): info for info in infos if not info.is_dir()}
    tops = [path.parent for path in paths if path.name == "Annotations.txt"]
    if len(tops) != 1:
        raise UserError(
            f"{archive}: expected one Annotations.txt, with {', '.join(TEXTS[1:])} and AVE/, got "
            f"{len(tops)}; get it from {ARCHIVE.url}"
        )
    relative = {
        path.relative_to(tops[0]): info
        for path, info in paths.items()
        if path.is_relative_to(tops[0])
    }
    members = {str(p): info for p, info in relative.items() if str(p) in TEXTS or _is_clip(p)}
    if missing := [name for name in TEXTS if name not in members]:
        raise UserError(
            f"{archive}: expected {', '.join(TEXTS)}, got no {', '.join(missing)}; get it from "
            f"{ARCHIVE.url}"
        )
    return members


def _is_clip(path: PurePosixPath) -> bool:
    if path.name.startswith("._"):  # macOS writes these beside files
        return False
    return str(path.parent) == "AVE" and path.suffix == ".mp4" and is_safe_id(path.stem)


def _danger(info: zipfile.ZipInfo) -> str | None:
    """Why a member is refused, for instance since it would be written outside its folder."""
    name = info.orig_filename  # as in the archive, before zipfile corrects it
    kind = stat.S_IFMT(info.external_attr >> 16)
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return "an absolute path"
    if "\\" in name or "\0" in name:
        return "a backslash or a zero byte in its name"
    if ".." in name.split("/"):
        return "a path with .."
    if kind == stat.S_IFLNK:
        return "a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a device, pipe or socket"
    if info.flag_bits & ENCRYPTED:
        return "encrypted"
    return None


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None

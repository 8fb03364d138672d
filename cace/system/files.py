"""Files: written completely or not at all, hashed, and moved into place."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from cace.system.errors import UserError


def workspace_root() -> Path:
    """The user's checkout, also from the copy in which DVC runs `--temp` and queued experiments."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def publish(finished: Path, out: Path) -> None:
    """Puts a finished file or folder at `out`, completely or not at all; it stays where it is too.

    Files are shared (hard links) if the file system can; otherwise, as on another disk, copied.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    new, old = (out.with_name(f".{out.name}.{word}") for word in ("new", "old"))
    try:
        for left_by_a_kill in (new, old):
            _remove(left_by_a_kill)
        for source in [finished, *sorted(finished.rglob("*"))]:
            _share(source, new / source.relative_to(finished))
        if out.is_dir():  # a folder cannot be replaced by another
            out.rename(old)
        new.replace(out)
        _remove(old)
    except OSError as error:
        _remove(new)
        raise OSError(error.errno, error.strerror, str(out)) from error


def _share(source: Path, target: Path) -> None:
    if source.is_dir():
        target.mkdir()
        return
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _remove(path: Path) -> None:
    """A file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Writes a file completely or not at all: under a temporary name, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # also an interrupt
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes JSON that is easy to read in a diff; NaN and infinity raise a ValueError."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    return file_hash(path, "sha256")


def file_hash(path: Path, kind: str) -> str:
    """Hex digest of a file's content; kind: a name that hashlib knows."""
    with path.open("rb") as file:
        digest = hashlib.new(kind, usedforsecurity=False)
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_folder(folder: Path) -> str:
    """Hash over the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    return digest.hexdigest()


def expect_file(path: Path, made_by: str) -> Path:
    """The path of a file or folder that an earlier stage wrote.

    Raises: UserError naming that stage if it is missing.
    """
    if not path.exists():
        raise UserError(f"{path}: not there; run `dvc repro {made_by}`")
    return path

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
    """Puts a finished file or folder in its place.

    An older folder is moved beside `finished` first: where that is not allowed, it stays complete.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_dir() and not out.is_symlink():
        older = finished.with_name(f"{finished.name}.old")
        shutil.rmtree(older, ignore_errors=True)
        out.rename(older)
    finished.replace(out)


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Writes a complete file or nothing: a temporary name in the same folder, then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # an interrupt, too
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes JSON that git shows well; NaN and infinity are refused, not written."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
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
    """The path of an upstream file or folder, or an error that names the stage that writes it."""
    if not path.exists():
        raise UserError(f"{path}: not there; run `dvc repro {made_by}`")
    return path

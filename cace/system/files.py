"""Files: written completely or not at all, hashed, and moved into place."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cace.paths import project_top
from cace.system.errors import UserError, shown


def workspace_root() -> Path:
    """The user's checkout, also from the copy in which DVC runs `--temp` and queued experiments.

    From a subfolder of it, too; outside of a project it is the current folder.
    """
    return Path(os.environ.get("DVC_ROOT") or project_top() or ".").resolve()


def name_as_text(name: str) -> str:
    """A file name as UTF-8 text, as files of the pipeline contain it, whatever the locale."""
    return os.fsencode(name).decode(errors="surrogateescape")


def name_from_text(text: str) -> str:
    """The file name that `name_as_text` wrote."""
    return os.fsdecode(text.encode(errors="surrogateescape"))


def users_path(given: str | Path, setting: str) -> Path:
    """A path that a user has set: `~` is the home folder; relative to the user's checkout.

    setting: names it in the message.
    Raises: UserError if no file can have this path.
    """
    try:
        path = workspace_root() / Path(given).expanduser()
        path.exists()
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(f"{setting}: expected a path, got {shown(str(given))}: {error}") from None
    return path


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


def temporary_beside(path: Path) -> Path:
    """A name for a file that is not complete yet; short, even if that of `path` is not."""
    of_path = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
    return path.with_name(f".{of_path}.{os.getpid()}.tmp")


def as_utf8(text: str) -> bytes:
    """Text as UTF-8; what is no character, as in a path with other bytes, becomes a `?`."""
    return text.encode(errors="replace")


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Writes a file completely or not at all: under a temporary name, then renamed.

    A pipe or a device, such as /dev/stdout, is written to: a rename would replace it. Text is
    written as by `as_utf8`.
    Raises: OSError that names `path`, also if the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    data = as_utf8(content) if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)
            return
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:  # also an interrupt
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def expect_writable(folder: Path) -> None:
    """Creates the folder, if it is not there.

    Raises: UserError if it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot create this folder: {error.strerror}") from None
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder}: cannot write to this folder: {error.strerror}") from None


def write_json(path: Path, value: Any) -> None:
    """Writes JSON that is easy to read in a diff; NaN and infinity raise a ValueError."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises: UserError if it is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: expected UTF-8 text, got other bytes ({error.reason} at byte {error.start}); "
            f"save it as UTF-8"
        ) from None


@contextlib.contextmanager
def reading(path: Path, made_by: str) -> Iterator[None]:
    """The block reads a file that an earlier stage wrote.

    Raises: UserError naming that stage if the file is not what the block expects.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); run `dvc repro {made_by}`") from None


def read_yaml(text: str, where: Path, *, as_written: bool = False) -> Any:
    """The value of a YAML text of the file `where`.

    as_written: numbers, dates and switches are the text that is written there.
    Raises: UserError if it is not YAML, or has values that Python cannot read.
    """
    try:
        # Neither loader makes anything but plain values.
        loader = (yaml.BaseLoader if as_written else yaml.SafeLoader)(text)
        node = loader.get_single_node()
        _expect_keys_once(node, where)
        return None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not YAML: {error}") from None
    except RecursionError:
        raise UserError(f"{where}: nested too deeply to be read") from None
    except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        # PyYAML checks no values: 2024-13-45 is no date, Python reads no number of 5,000 digits.
        raise UserError(f"{where}: a value that cannot be read: {error}") from None


def _expect_keys_once(node: yaml.Node | None, where: Path) -> None:
    """Looks two levels deep, at sections and their keys: PyYAML would take the last of them."""
    inside = node.value if isinstance(node, yaml.MappingNode) else []
    for pairs in (inside, *(v.value for _, v in inside if isinstance(v, yaml.MappingNode))):
        lines: dict[str, int] = {}
        for key, _ in pairs:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                raise UserError(
                    f"{where}, line {line}: {shown(key.value)} is in line {lines[key.value]} "
                    f"already; keep one"
                )
            lines[key.value] = line


def sha256(path: Path | zipfile.Path) -> str:
    """Hex digest of the content of a file, or of one in an archive."""
    return file_hash(path, "sha256")


def file_hash(path: Path | zipfile.Path, kind: str) -> str:
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

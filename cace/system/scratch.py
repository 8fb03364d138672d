"""Work of a stage, which outlives the stage when it is killed.

DVC empties a stage's outputs before it runs it, so a stage works in `.work/<stage>/<code>-<inputs>`
and publishes from there. A run resumes only work of the same code and the same inputs. Where the
code depends on a setting, such as the method of `train`, its value comes first:
`<value>-<code>-<inputs>`.

Finished work stays, marked by `<folder>.finished`, until a stage starts that depends on its
outputs: DVC has recorded them then. If DVC is killed before, while it hashes them, the stage only
publishes them again. They need no room, as files are shared (hard links) where possible. In the
folder, a finished output has the name that it has in dvc.yaml.
"""

import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from cace.system.errors import UserError, shown
from cace.system.files import file_hash, read_text, read_yaml, workspace_root, write_json
from cace.system.locks import locked

CODE = ("cace", "stages", "ablations", "baselines", "matching")  # top folders that hold code
DOWNLOADS = "downloads"  # the folder in `.work` that holds no work: see cace/system/downloads.py


@contextlib.contextmanager
def scratch(
    name: str, *inputs: Any, stage: str = "", item: dict[str, str] | None = None
) -> Iterator[Path]:
    """A locked folder for this work with these inputs; the next run finds it after a kill.

    The block runs again on finished work: it must find all of it done, and publish. It changes no
    file in place, because DVC's cache may share the file.

    name: of the folder under `.work`.
    inputs: everything that the result depends on beside the code (hashes of the files that are
        read, settings), as plain JSON.
    stage: as `file:stage`, where the stage is not called `name` in dvc.yaml.
    item: of the stage's matrix.

    Folders of an earlier state of the code are removed, unless another run works there.
    """
    stage = stage or f"dvc.yaml:{name}"
    code = listed_code(stage, item or {})
    kind = "".join(f"{value}-" for value in code.values)
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    folder = work_root() / name / f"{kind}{code.hash()}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_recorded(stage)
    _remove_outdated(folder.parent, kind, f"{kind}{code.hash()}-")
    outs = _paths(_stage(stage).get("outs", []))
    # The lock waits for an orphan of a killed run, or for a second run that wants the same.
    with locked(_lock(folder), "another run of the same work"):
        if _mark(folder).exists() and _recorded(folder, outs, stage):
            # DVC has the outputs and runs the stage all the same: it was told to, `dvc repro -f`.
            _mark(folder).unlink()
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        for half_written in folder.rglob(".*.tmp"):
            half_written.unlink()
        yield folder
        write_json(_mark(folder), {"workspace": str(Path.cwd()), "outs": outs})


class Work(NamedTuple):
    """What one run of a stage left in `.work`."""

    folder: Path
    finished: bool
    bytes: int  # of its files

    @property
    def name(self) -> str:
        """`<stage>/<folder>`."""
        return f"{self.folder.parent.name}/{self.folder.name}"


def work_root() -> Path:
    """The folder of all work."""
    return workspace_root() / ".work"


def all_work() -> list[Work]:
    """Of all stages, sorted by name."""
    folders = [f for f in work_root().glob("*/*") if _is_folder(f) and f.parent.name != DOWNLOADS]
    return [Work(folder, _mark(folder).exists(), _size(folder)) for folder in sorted(folders)]


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()  # a link is no work of ours


def remove(folder: Path) -> bool:
    """Removes work, unless a run uses it; returns whether it is gone."""
    with contextlib.suppress(Timeout), FileLock(_lock(folder), timeout=0):
        _mark(folder).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        _lock(folder).unlink(missing_ok=True)
        return True
    return False


def remove_recorded(stage: str) -> None:
    """Removes the finished work that this stage depends on: DVC has recorded its outputs.

    That of other workspaces (of `--temp` and queued runs) stays while these exist.

    stage: the stage that starts, as `file:stage`.
    """
    deps = [Path(dep) for dep in _paths(_stage(stage).get("deps", []))]
    for mark in work_root().glob("*/*.finished"):
        try:
            made = json.loads(mark.read_text(encoding="utf-8"))
        except FileNotFoundError:  # another run has just removed it
            continue
        workspace = Path(made["workspace"])
        outs = [Path(out.split("${")[0]) for out in made["outs"]]
        if (workspace == Path.cwd() or not workspace.exists()) and any(
            out.is_relative_to(dep) or dep.is_relative_to(out) for out in outs for dep in deps
        ):
            remove(mark.with_suffix(""))


class Code(NamedTuple):
    """The code among a stage's dependencies."""

    paths: list[Path]  # files and folders, relative to the top folder
    values: list[str]  # of the settings that choose among them

    def hash(self) -> str:
        """Short, of all files."""
        digest = hashlib.sha256()
        for path in self.paths:
            for file in sorted([path, *path.rglob("*")]):
                if file.is_file() and "__pycache__" not in file.parts:
                    digest.update(f"{file.as_posix()} ".encode() + file.read_bytes())
        return digest.hexdigest()[:8]


def listed_code(stage: str, item: dict[str, str]) -> Code:
    """The code that a stage lists.

    stage: as `file:stage`, for instance `dvc.yaml:train`.
    item: of the stage's matrix.
    Raises: UserError if the file of stages is missing, or has no such stage.
    """
    deps = _paths(_stage(stage).get("deps", []))
    params, values = _read(Path("params.yaml")), []

    def value(match: re.Match[str]) -> str:
        found: Any = {**params, "item": item}
        for key in match[1].split("."):
            found = found.get(key, {})
        values.append(str(found))
        return str(found)

    listed = [dep for dep in deps if dep.split("/")[0] in CODE]
    return Code([Path(re.sub(r"\$\{([\w.]+)\}", value, dep)) for dep in listed], values)


def _stage(stage: str) -> dict[str, Any]:
    """The entry of a stage, given as `file:stage`."""
    file, _, name = stage.partition(":")
    stages = _read(Path(file)).get("stages") or {}
    if name not in stages:
        raise UserError(f"{file}: expected a stage {name}, got {', '.join(stages)}")
    entry: dict[str, Any] = stages[name]
    return entry


def _paths(entries: list[Any]) -> list[str]:
    """Of dependencies or outputs: an entry is a path, or a path with options."""
    return [next(iter(entry)) if isinstance(entry, dict) else str(entry) for entry in entries]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: not there; run this in the project's top folder")
    content = read_yaml(read_text(path), path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected keys with values, got {shown(content)}")
    return content


def _recorded(folder: Path, outs: list[str], stage: str) -> bool:
    """Whether dvc.lock and DVC's cache have exactly these finished outputs.

    dvc.lock alone is no proof: in a fresh clone it has the outputs before any stage has run.
    """
    file, _, name = stage.partition(":")
    lock = Path(file).with_suffix(".lock")
    entry = _read(lock).get("stages", {}).get(name, {}) if lock.exists() else {}
    found = {out["path"]: out for out in entry.get("outs", [])}
    finished = {out: folder / Path(out).name for out in outs}
    if not all(out in found and path.exists() for out, path in finished.items()):
        return False
    if any(found[out].get("size") != _size(path) for out, path in finished.items()):
        return False
    hashes = [dvc_md5(path) for path in finished.values()]
    if hashes != [found[out].get("md5") for out in finished]:
        return False
    cache = dvc_cache()
    return cache is not None and all((cache / h[:2] / h[2:]).exists() for h in hashes)


def dvc_cache() -> Path | None:
    """The folder of DVC's cache, as its settings have it; None if they cannot be read."""
    command = (sys.executable, "-m", "dvc", "cache", "dir")
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    return Path(done.stdout.strip()) / "files/md5" if done.returncode == 0 else None


def dvc_md5(path: Path) -> str:
    """The hash by which DVC knows a file or a folder."""
    if path.is_file():
        return file_hash(path, "md5")
    entries = [
        {"md5": dvc_md5(file), "relpath": file.relative_to(path).as_posix()}
        for file in _files(path)
    ]
    entries.sort(key=lambda entry: entry["relpath"])
    listing = json.dumps(entries, sort_keys=True).encode()
    return hashlib.md5(listing, usedforsecurity=False).hexdigest() + ".dir"


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (_files(path) if path.is_dir() else [path]))


def _lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _mark(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.finished")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _remove_outdated(folder: Path, kind: str, current: str) -> None:
    """Removes work of the same kind, or with no kind in its name, that is not of current code."""
    for path in sorted(folder.iterdir()):
        of_this_kind = path.name.startswith(kind) or "-" not in path.name
        if path.is_dir() and of_this_kind and not path.name.startswith(current):
            remove(path)

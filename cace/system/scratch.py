"""Half-done work of a stage, which remains when the stage is killed.

DVC empties a stage's outputs before it runs it, so unfinished work is in
`.work/<stage>/<code>-<inputs>` and is moved into the output at the end. A run resumes only work of
the same code and the same inputs.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from cace.system.errors import UserError
from cace.system.files import workspace_root

CODE = ("cace", "stages", "ablations")  # top folders that hold code


@contextlib.contextmanager
def scratch(name: str, *inputs: Any, stage: str = "") -> Iterator[Path]:
    """A locked folder for this work with these inputs; the next run finds it after a kill.

    name: of the folder under `.work`.
    inputs: everything that the result depends on except the code (hashes of the files that are
        read, settings), as plain JSON.
    stage: as `file:stage`, if the stage is not called `name` in dvc.yaml.

    Folders that code of another state left behind are removed, unless another run works there.
    """
    code = code_hash(stage or f"dvc.yaml:{name}")[:8]
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    folder = workspace_root() / ".work" / name / f"{code}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_outdated(folder.parent, code)
    # The lock waits for an orphan of a killed run, or for a second run with the same inputs.
    with FileLock(folder.with_suffix(".lock")):
        folder.mkdir(exist_ok=True)
        for half_written in folder.rglob(".*.tmp"):
            half_written.unlink()
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def code_hash(stage: str) -> str:
    """Hash of the code that the stage lists among its dependencies.

    stage: as `file:stage`, for instance `dvc.yaml:train`.
    """
    digest = hashlib.sha256()
    for listed in listed_code(stage):
        for file in sorted([listed, *listed.rglob("*")]):
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.as_posix()} ".encode() + file.read_bytes())
    return digest.hexdigest()


def listed_code(stage: str) -> list[Path]:
    """Files and folders of code among a stage's dependencies, relative to the top folder.

    Raises: UserError if the file of stages is missing, or has no such stage.
    """
    file, _, name = stage.partition(":")
    stages = _read(Path(file)).get("stages", {})
    if name not in stages:
        raise UserError(f"{file}: expected a stage {name}, got {', '.join(stages)}")
    params = _read(Path("params.yaml"))

    def value(match: re.Match[str]) -> str:
        found: Any = params
        for key in match[1].split("."):
            found = found.get(key, {})
        return str(found)

    deps = [re.sub(r"\$\{([\w.]+)\}", value, dep) for dep in stages[name].get("deps", [])]
    return [Path(dep) for dep in deps if dep.split("/")[0] in CODE]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: not there; run this in the project's top folder")
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def _remove_outdated(folder: Path, code: str) -> None:
    for path in folder.iterdir():
        if path.name.startswith(f"{code}-"):
            continue
        lock = path.with_suffix(".lock")
        with contextlib.suppress(Timeout), FileLock(lock, timeout=0):  # not in use
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)

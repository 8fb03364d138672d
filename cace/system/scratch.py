"""Half-done work of a stage, which outlives the stage when it is killed.

DVC empties a stage's outputs before it runs it, so unfinished work is in
`.work/<stage>/<code>-<inputs>` and is moved into the output at the end. A run resumes only work of
the same code and the same inputs. Where the code depends on a setting, such as the method of
`train`, its value comes first: `<value>-<code>-<inputs>`.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from filelock import FileLock, Timeout

from cace.system.errors import UserError
from cace.system.files import workspace_root

CODE = ("cace", "stages", "ablations", "baselines")  # top folders that hold code


@contextlib.contextmanager
def scratch(
    name: str, *inputs: Any, stage: str = "", item: dict[str, str] | None = None
) -> Iterator[Path]:
    """A locked folder for this work with these inputs; the next run finds it after a kill.

    name: of the folder under `.work`.
    inputs: everything that the result depends on beside the code (hashes of the files that are
        read, settings), as plain JSON.
    stage: as `file:stage`, where the stage is not called `name` in dvc.yaml.
    item: of the stage's matrix.

    Folders of an earlier state of the code are removed, unless another run works there.
    """
    code = listed_code(stage or f"dvc.yaml:{name}", item or {})
    kind = "".join(f"{value}-" for value in code.values)
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    folder = workspace_root() / ".work" / name / f"{kind}{code.hash()}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_outdated(folder.parent, kind, f"{kind}{code.hash()}-")
    # The lock waits for an orphan of a killed run, or for a second run that wants the same.
    with FileLock(folder.with_suffix(".lock")):
        folder.mkdir(exist_ok=True)
        for half_written in folder.rglob(".*.tmp"):
            half_written.unlink()
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


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
    file, _, name = stage.partition(":")
    stages = _read(Path(file)).get("stages", {})
    if name not in stages:
        raise UserError(f"{file}: expected a stage {name}, got {', '.join(stages)}")
    params, values = _read(Path("params.yaml")), []

    def value(match: re.Match[str]) -> str:
        found: Any = {**params, "item": item}
        for key in match[1].split("."):
            found = found.get(key, {})
        values.append(str(found))
        return str(found)

    listed = [dep for dep in stages[name].get("deps", []) if dep.split("/")[0] in CODE]
    return Code([Path(re.sub(r"\$\{([\w.]+)\}", value, dep)) for dep in listed], values)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: not there; run this in the project's top folder")
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def _remove_outdated(folder: Path, kind: str, current: str) -> None:
    """Removes work of the same kind, or with no kind in its name, that is not of current code."""
    for path in sorted(folder.iterdir()):
        of_this_kind = path.name.startswith(kind) or "-" not in path.name
        if path.suffix == ".lock" or path.name.startswith(current) or not of_this_kind:
            continue
        lock = path.with_suffix(".lock")
        with contextlib.suppress(Timeout), FileLock(lock, timeout=0):  # not in use
            shutil.rmtree(path, ignore_errors=True)
            lock.unlink(missing_ok=True)

"""Files and work that outlive a killed stage.

DVC empties a stage's outs before it runs it, so unfinished work lives in
`.work/<stage>/<hash of the inputs>` and is renamed into the out at the end.
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from tqdm import tqdm

from cace.system.errors import UserError

Item = TypeVar("Item")


def workspace_root() -> Path:
    """The user's checkout, also from the copy in which DVC runs `--temp` and queued experiments."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def workers() -> int:
    """Processes to use: CACE_WORKERS, else one per core that this process may run on."""
    text = os.environ.get("CACE_WORKERS")
    if text is None:
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity else os.cpu_count() or 1
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"CACE_WORKERS: expected a number of processes >= 1, got {text!r}")
    return int(text)


def code_hash() -> str:
    """Hash of this package's sources: half-finished work of other code is not gone on with."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def worker_processes(count: int) -> ProcessPoolExecutor:
    """Processes for parallel work, which end with this one even where it is killed.

    They are started anew, not forked: a worker inherits no threads and no open files.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        count, mp_context=context, initializer=_end_with, initargs=(os.getpid(),)
    )


def _end_with(parent: int) -> None:
    """Ends this process soon after its parent: an orphan would go on and hold memory and cores."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def scratch(stage: str, *identity: Any) -> Iterator[Path]:
    """A folder that belongs to this stage with these inputs, locked; found again after a kill.

    identity: whatever the result depends on (hashes of inputs, settings), as plain JSON.
    """
    text = json.dumps([identity, code_hash()], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = workspace_root() / ".work" / stage / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The lock waits for an orphan of a killed run, or for a second run that wants the same.
    with FileLock(folder.with_suffix(".lock")):
        folder.mkdir(exist_ok=True)
        for half_written in folder.rglob(".*.tmp"):
            half_written.unlink()
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def publish(finished: Path, out: Path) -> None:
    """Puts a finished file or folder in its place.

    An older folder is moved beside `finished` first: where that is not allowed, it stays whole.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_dir() and not out.is_symlink():
        older = finished.with_name(f"{finished.name}.old")
        shutil.rmtree(older, ignore_errors=True)
        out.rename(older)
    finished.replace(out)


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Writes a whole file or nothing: a temporary name in the same folder, then a rename."""
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


def expect_file(path: Path, made_by: str) -> Path:
    """The path of an upstream file or folder, or an error that says which stage makes it."""
    if not path.exists():
        raise UserError(f"{path}: not there; run `dvc repro {made_by}`")
    return path


def progress(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Shows how far work has come: a bar on a terminal, a line for each tenth in a log."""
    total = total if total is not None else len(items)  # type: ignore[arg-type]
    bar = tqdm(items, desc=what, total=total, disable=None, dynamic_ncols=True)
    shown = 0
    for count, item in enumerate(bar, start=1):
        yield item
        if bar.disable and total and 10 * count // total > shown:
            shown = 10 * count // total
            print(f"{what}: {count}/{total}", flush=True)

"""What is installed, found and missing, and how to fix it."""

import contextlib
import importlib.util
import json
import os
import platform
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import av
import pandas as pd
import torch

from cace import __version__
from cace.data.annotations import read_annotations
from cace.data.sources.folder import find_clips, label_files, read_index
from cace.encoders.libraries import needs_files, place_of
from cace.paths import CLIPS, EVAL, FEATURES, FRAMES, INDEX, LOCALIZERS, MEDIA, VISUAL_ENCODER
from cace.settings import Params, load_params
from cace.system.downloads import WEIGHTS, downloads_folder
from cace.system.errors import UserError
from cace.system.files import users_path, workspace_root
from cace.system.scratch import all_work, work_root
from cace.system.workers import workers

FILES_IN_USE = ".dvc/tmp/rwlock"
ENOUGH_BYTES = 2e9  # free; mini needs a third of it
OUTS = {  # by the stage that writes it
    "download": MEDIA,
    "frames": FRAMES,
    "decode": CLIPS,
    "finetune": VISUAL_ENCODER,
    "extract": FEATURES,
    "train": LOCALIZERS,
    "evaluate": EVAL,
}


class Finding(NamedTuple):
    """One line of the screen."""

    what: str
    found: str
    fix: str = ""  # what to do; empty if nothing is wrong


def examine() -> list[Finding]:
    """Looks at the machine and at the project in the current folder; changes nothing."""
    findings = [*_machine(), *_work(), *_folder_name(), *_git(), *_files_in_use()]
    try:
        params = load_params()
    except UserError as error:
        return [*findings, Finding("settings", "wrong", str(error))]
    findings.append(Finding("settings", f"source {params.data.source}"))
    return [*findings, *_weights(params), *_folder(params), *_stages(), *_of("DVC's cache", _cache)]


def _machine() -> Iterator[Finding]:
    yield Finding("cace", f"{__version__}, Python {platform.python_version()} at {sys.executable}")
    cuda = (
        torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA: runs on the CPU"
    )
    yield Finding("torch", f"{torch.__version__}, {cuda}; {workers()} worker processes")
    codecs = {"h264", "aac", "flac"} - av.codecs_available
    version = ".".join(map(str, av.library_versions["libavcodec"]))
    yield Finding(
        "FFmpeg in PyAV",
        f"av {av.__version__}, libavcodec {version}",
        f"it lacks {', '.join(sorted(codecs))}; `pip install --force-reinstall av`"
        if codecs
        else "",
    )
    for package in ("decord", "timm", "transformers"):
        there = importlib.util.find_spec(package) is not None
        yield Finding(f"{package} (optional)", "installed" if there else "not installed")
    free = shutil.disk_usage(workspace_root()).free
    short = free < ENOUGH_BYTES
    yield Finding(
        "disk",
        f"{free / 1e9:.1f} GB free",
        "free some space: `dvc gc -w --all-branches` removes old caches, `make clean` removes all "
        "that stages wrote, for every branch"
        if short
        else "",
    )


def _work() -> Iterator[Finding]:
    for finished, what, why in (
        (False, "unfinished work", "`dvc repro` resumes it; `cace clean` removes it"),
        (True, "finished work", "`dvc repro` uses it if DVC was killed; a later stage removes it"),
    ):
        found = [work for work in all_work() if work.finished == finished]
        names = ", ".join(f"{work.name} ({work.bytes / 1e9:.1f} GB)" for work in found)
        yield Finding(what, f"{names} in {work_root()}: {why}" if found else "none")


def _folder_name() -> Iterator[Finding]:
    top = str(workspace_root())
    if strange := sorted({letter for letter in top if letter in "#?" or not letter.isascii()}):
        yield Finding(
            "project's folder",
            f"{top}: DVC cannot run `dvc exp run --temp` and queues under a path with "
            f"{' '.join(strange)}; `dvc repro` and `dvc exp run` work",
        )


def _git() -> Iterator[Finding]:
    if shutil.which("dvc") is None:
        yield Finding("dvc", "not on the PATH", "`source .venv/bin/activate`")
    else:
        yield from _of("dvc", lambda: [Finding("dvc", _run("dvc", "--version"))])
    if shutil.which("git") is None:
        yield Finding("git", "not on the PATH", "install git: DVC needs it")
    else:
        yield from _of("git", _head)


def _head() -> list[Finding]:
    _run("git", "rev-parse", "--show-toplevel")
    branch = _run("git", "symbolic-ref", "--quiet", "--short", "HEAD", may_fail_with=1)
    left = _run("git", "for-each-ref", "--format=%(refname)", "refs/exps/exec/EXEC_BASELINE")
    fixes = [
        *(["`git checkout main`"] if not branch else []),
        *([f"`git update-ref -d {left}`"] if left and not branch else []),
    ]
    detached = "on a detached HEAD, as after a killed `dvc exp run`"
    return [Finding("git", f"on branch {branch}" if branch else detached, " and ".join(fixes))]


def _files_in_use() -> Iterator[Finding]:
    """DVC's list of them: DVC writes it in place, so a kill may leave it empty."""
    try:
        json.loads(Path(FILES_IN_USE).read_bytes())
    except FileNotFoundError:
        return
    except ValueError:
        yield Finding(
            "dvc",
            f"{FILES_IN_USE} is damaged, as after a kill while DVC wrote it: DVC says `Unable to "
            f"read RWLock-file`",
            f"`rm {FILES_IN_USE}`, while no other run of DVC is active in this project",
        )


def _cache() -> list[Finding]:
    if shutil.which("dvc") is None:
        return []
    status = json.loads(_run("dvc", "data", "status", "--json"))
    lacks = [name for name in status.get("not_in_cache", []) if Path(name).exists()]
    return lacks and [
        Finding(
            "DVC's cache",
            f"lacks {', '.join(lacks)} in {_run('dvc', 'cache', 'dir')}",
            "free space there, or make it writable; then `dvc commit STAGE` adds what it wrote",
        )
    ]


class _CommandError(Exception):
    """A command failed; the text is what it printed."""


def _of(what: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """What was found; if a command failed, only that failure."""
    try:
        return look()
    except _CommandError as error:
        said = str(error)
    if "dubious ownership" in said or "not owned by" in said:
        top = workspace_root()
        found = f"{top} belongs to {_owner(top)}, and this is {_user()}: git does not read it"
        return [Finding(what, found, f"`git config --global --add safe.directory {top}`")]
    if "not a git repository" in said:
        fix = "clone the project, or `git init` and commit: DVC needs it"
        return [Finding(what, "no repository", fix)]
    if named := re.search(r"'(?:\./)?([^']*dvc\.lock)' (?:is invalid|validation failed)", said):
        lock = named[1]
        found = f"{lock} is damaged, as after a kill while DVC wrote it"
        fix = f"`rm {lock}`, then `dvc repro`: it takes what has finished from its cache"
        return [Finding(what, found, fix)]
    if named := re.search(r"'(?:\./)?([^']*dvc\.yaml)'", said):
        found = f"DVC cannot read it: {' '.join(said.partition(' failed: ')[2].split())}"
        fix = f"fix what the message says; `git diff {named[1]}` shows what has changed"
        return [Finding(named[1], found, fix)]
    return [Finding(what, said, "fix what the message says, then run `cace doctor` again")]


def _run(*command: str, may_fail_with: int = 0) -> str:
    """What the command printed.

    may_fail_with: a status that means an empty answer.
    Raises: _CommandError if it failed otherwise.
    """
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode not in (0, may_fail_with):
        said = done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}"
        raise _CommandError(f"`{' '.join(command)}` failed: {said}")
    return done.stdout.strip()


def _owner(path: Path) -> str:
    with contextlib.suppress(KeyError):  # an id without a name, as in a container
        return path.owner()
    return f"user {path.stat().st_uid}"


def _user() -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    return f"user {os.geteuid()}"


def _weights(params: Params) -> Iterator[Finding]:
    if params.encoders is None:
        return
    encoders = params.encoders
    for name, weights in (
        (encoders.visual, encoders.visual_weights),
        (encoders.audio, encoders.audio_weights),
    ):
        file = WEIGHTS.get((name, weights))
        if needs_files(name, weights):
            try:
                place = place_of(name, weights)
                yield Finding(f"weights of {name}", str(place or weights))
            except UserError as error:
                yield Finding(f"weights of {name}", "not here", str(error))
            continue
        if file is None:
            yield Finding(f"weights of {name}", weights)
            continue
        places = (downloads_folder(), Path(torch.hub.get_dir()) / "checkpoints")
        found = [place / file.name for place in places if (place / file.name).is_file()]
        yield Finding(
            f"weights of {name}",
            str(found[0]) if found else "not here",
            "" if found else f"downloaded when needed; offline, put {file} into {places[0]}",
        )


def _folder(params: Params) -> Iterator[Finding]:
    if params.data.source != "folder" or params.data.path is None:
        return
    folder = params.data.path
    try:
        folder = users_path(folder, "params.yaml, data.path")
        clips = find_clips(folder, read_annotations(folder))
        index = read_index(INDEX)
    except UserError as error:
        yield Finding("data.path", str(folder), str(error))
        return
    files = {**clips, **label_files(folder)}
    sizes = pd.Series({id_: path.stat().st_size for id_, path in files.items()}, dtype=int)
    same = index.set_index("id")["bytes"].astype(int).sort_index().equals(sizes.sort_index())
    yield Finding(
        "data.path",
        f"{folder}, {len(clips)} clips, {'as indexed' if same else 'not as indexed'}",
        "" if same else f"`cace index {folder}`, so that the pipeline notices changes",
    )


def _stages() -> Iterator[Finding]:
    missing = [stage for stage, out in OUTS.items() if not out.exists()]
    yield Finding(
        "pipeline",
        f"not run yet: {', '.join(missing)}" if missing else f"has run: see {EVAL}",
    )

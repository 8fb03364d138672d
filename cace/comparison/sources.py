"""Runs by their names on the command line: their predictions on test, and their settings.

Everything is read from git, from the files of the project, or from DVC's cache; nothing is written.
"""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cace import paths
from cace.comparison.segment_tables import read_segment_table
from cace.evaluation import prediction_files
from cace.evaluation.prediction_files import SavedPredictions
from cace.settings import LOCALIZERS
from cace.system.errors import UserError, shown
from cace.system.files import read_text, read_yaml

WORKSPACE = "workspace"
CACHED = paths.PREDICTIONS / "predictions.csv"
CACHED_BEFORE = paths.PREDICTIONS / "test.csv"  # of commits without metrics/predictions.csv
MATCHING = paths.METRICS / "matching" / "table.md"
_CELL = re.compile(r"[^/]+")
NOT_OF_A_RESULT = ("ablations", "baselines", "matching", "compute")  # sections of settings


class Run(NamedTuple):
    """What is compared."""

    name: str  # as it was given
    commit: str | None  # None for files
    saved: SavedPredictions
    settings: dict[str, Any] | None  # by names such as `bece.lambda`; None of a CSV file


class _Place(NamedTuple):
    """The project at a commit, or its files as they are."""

    name: str
    top: Path
    commit: str | None  # None: the files

    def __str__(self) -> str:
        known = self.commit is None or self.commit.startswith(self.name)
        return self.name if known else f"{self.name} ({self.short})"

    @property
    def short(self) -> str:
        return (self.commit or "")[:7]

    def text(self, path: Path) -> str | None:
        """A file's text; None if it is not there."""
        if self.commit is None:
            return read_text(self.top / path) if (self.top / path).is_file() else None
        done = _git(self.top, "show", f"{self.commit}:./{path.as_posix()}")
        return done.stdout if done.returncode == 0 else None

    def yaml(self, path: Path) -> dict[str, Any] | None:
        """A file of settings; None if it is not there."""
        text = self.text(path)
        value = None if text is None else read_yaml(text, Path(f"{self}: {path}"))
        return value if isinstance(value, dict) else None


def find(name: str, top: Path | None) -> Run:
    """The run of a name: `workspace`, a branch, tag or commit, an experiment, a CSV file, a cell.

    A cell is `ablations/CELL`, `baselines/METHOD` or `weak/METHOD`, also at a revision:
    `REVISION:baselines/css`.

    top: the project's top folder; without one, only CSV files can be read.
    Raises: UserError if there is no such run, or no predictions of it.
    """
    if name.endswith(".csv") and (":" not in name or Path(name).is_file()):
        return _of_file(name)
    if top is None:
        raise UserError(
            f"{shown(name)}: revisions and cells belong to a project: run this in a folder with "
            f"params.yaml and dvc.yaml, or below it, or name predictions as FILE.csv"
        )
    revision, colon, cell = name.rpartition(":")
    table, _, cell_name = cell.partition("/")
    if colon:
        if table == "matching":
            raise _matcher(name)
        if table not in paths.TABLES or not _CELL.fullmatch(cell_name):
            raise UserError(
                f"{shown(name)}: expected REVISION:ablations/CELL, REVISION:baselines/METHOD or "
                f"REVISION:weak/METHOD"
            )
        return _of_cell(name, _place(revision, top), table, cell_name)
    files = _Place(WORKSPACE, top, None)
    known = table in paths.TABLES and _CELL.fullmatch(cell_name)
    if known and (top / _cell_file(table, cell_name)).is_file():
        if _commit(top, branch := f"refs/heads/{name}"):
            raise UserError(
                f"{shown(name)} is a cell of a table and a branch; name {WORKSPACE}:{name} or "
                f"{branch}"
            )
        return _of_cell(name, files, table, cell_name)
    place = _place(name, top)
    return Run(name, place.commit, _predictions(place), _settings(place))


def _of_file(name: str) -> Run:
    path = Path(name)
    if not path.is_file():
        raise UserError(f"{name}: not there; expected a file of predictions")
    saved = _read(read_text(path), name)
    if saved is None:
        raise UserError(f"{name}: contains only a header; use the complete table, {CACHED}")
    return Run(name, None, saved, None)


def _read(text: str, where: str) -> SavedPredictions | None:
    """Predictions of either form; None if there are none."""
    if text.split("\n", 1)[0].startswith("seed,id,segment,"):
        return read_segment_table(text, where)
    return prediction_files.read(text, where)


def _place(name: str, top: Path) -> _Place:
    if name == WORKSPACE:
        return _Place(name, top, None)
    if (done := _git(top, "rev-parse", "--git-dir")).returncode:
        why = done.stderr.strip().partition("\n")[0]
        raise UserError(f"{shown(name)}: git reads no repository of this project: {why}")
    if not name or name.startswith("-"):
        raise _no_run(name, top)
    references = (f"refs/tags/{name}", f"refs/heads/{name}", *_experiments(name, top))
    found = {ref: commit for ref in references if (commit := _commit(top, ref))}
    if len({*found.values()}) > 1:
        raise UserError(f"{shown(name)}: several runs have this name; name {' or '.join(found)}")
    commit = next(iter(found.values()), None) or _commit(top, name)
    if commit is None:
        raise _no_run(name, top)
    return _Place(name, top, commit)


def _commit(top: Path, revision: str) -> str | None:
    """The commit's hash; None if git knows no such revision."""
    done = _git(top, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    return done.stdout.strip() if done.returncode == 0 else None


def _matcher(name: str) -> UserError:
    return UserError(
        f"{shown(name)}: a matcher predicts no labels of segments, so it cannot be compared "
        f"here; {MATCHING} compares the matchers"
    )


def _no_run(name: str, top: Path) -> UserError:
    if name.startswith("matching/"):
        return _matcher(name)
    remote = _git(top, "for-each-ref", "--format=%(refname:short)", "refs/remotes").stdout.split()
    if branches := [branch for branch in remote if branch.partition("/")[2] == name]:
        return UserError(f"{shown(name)} is a branch of a remote; name {' or '.join(branches)}")
    tables = ", ".join(f"{table}/NAME" for table in paths.TABLES)
    shallow = _git(top, "rev-parse", "--is-shallow-repository").stdout.strip() == "true"
    return UserError(
        f"{shown(name)}: expected a branch, tag, commit, experiment (`dvc exp show` lists them), "
        f"{WORKSPACE}, a file FILE.csv, or a cell of a table ({tables}) that has predictions"
        + ("; this clone is shallow: `git fetch --unshallow` brings older commits" * shallow)
    )


def _experiments(name: str, top: Path) -> list[str]:
    """Git references of the experiment; of several with this name, that on the current commit.

    Raises: UserError if none of several is on it.
    """
    listing = _git(top, "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    # refs/exps/<2 digits>/<38 digits of the commit it started from>/<name>
    parts = {ref: ref.split("/") for ref in listing}
    found = {r: p[2] + p[3] for r, p in parts.items() if len(p) == 5 and p[4] == name}
    if len(found) < 2:
        return list(found)
    head = _git(top, "rev-parse", "HEAD").stdout.strip()
    if here := [ref for ref, base in found.items() if base == head]:
        return here
    commits = ", ".join(_git(top, "rev-parse", "--short", ref).stdout.strip() for ref in found)
    raise UserError(
        f"{shown(name)}: {len(found)} experiments have this name; name one of {commits}"
    )


def _predictions(place: _Place) -> SavedPredictions:
    where = f"{place}: {paths.SAVED_PREDICTIONS}"
    text = place.text(paths.SAVED_PREDICTIONS)
    if text is not None and (saved := _read(text, where)) is not None:
        return saved
    if text is None and not _lists(place, paths.PREDICTIONS):
        raise UserError(
            f"{where}: not there; run `dvc repro evaluate` {_there(place)}and keep the file in git"
        )
    for cached in (CACHED, CACHED_BEFORE):
        found = _from_cache(place, cached)
        if found is not None and (saved := _read(found, f"{place}: {cached}")) is not None:
            return saved
    why = "contains only a header, as the table is too large for git" if text else "is not there"
    raise UserError(
        f"{where} {why}, and DVC's cache does not contain {paths.PREDICTIONS}; run "
        f"`dvc pull {paths.PREDICTIONS}` {_there(place)}to bring it, or `dvc repro evaluate` "
        f"to make it"
    )


def _there(place: _Place) -> str:
    return "" if place.commit is None else f"at that commit (`git checkout {place.short}`) "


def _lists(place: _Place, out: Path) -> bool:
    """Whether dvc.lock contains the output of a stage."""
    stages = _section(place.yaml(Path("dvc.lock")) or {}, "stages")
    outs = [_section(stages, name).get("outs") for name in stages]
    entries = [entry for listed in outs if isinstance(listed, list) for entry in listed]
    return any(isinstance(one, dict) and one.get("path") == out.as_posix() for one in entries)


def _from_cache(place: _Place, path: Path) -> str | None:
    """The text of a file that DVC has stored, also from a remote; None if it has not."""
    if place.commit is None and (place.top / path).is_file():
        return read_text(place.top / path)
    import dvc.api  # takes a second to import
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError

    try:
        with dvc.api.open(
            path.as_posix(), repo=str(place.top), rev=place.commit, encoding="utf-8"
        ) as file:
            return str(file.read())
    except (DvcException, DataIndexDirError, OSError):
        return None


def _of_cell(name: str, place: _Place, table: str, cell: str) -> Run:
    file = _cell_file(table, cell)
    where = f"{place}: {file}"
    again = f"`dvc repro {paths.TABLES[table]}@{cell}`"
    text = place.text(file)
    if text is None:
        raise UserError(f"{where}: not there; run {again} {_there(place)}to make it")
    saved = _read(text, where)
    complete = place.top / "data" / table / "cells" / cell / "predictions.csv"
    if saved is None and place.commit is None and complete.is_file():
        saved = _read(read_text(complete), str(complete))
    if saved is None:
        raise UserError(
            f"{where}: contains only a header, as the table is too large for git or the cell was "
            f"not run, and the complete table of a cell is not stored; run {again} "
            f"{_there(place)}to make it"
        )
    return Run(name, place.commit, saved, _settings(place, table, cell))


def _cell_file(table: str, cell: str) -> Path:
    return paths.METRICS / table / "predictions" / f"{cell}.csv"


def _settings(place: _Place, table: str | None = None, cell: str = "") -> dict[str, Any] | None:
    """params.yaml and the profile in force, with the changes of a cell; None without params.yaml.

    Sections of methods that are not selected, and those that shape no result, are left out.
    """
    params = place.yaml(Path("params.yaml"))
    if params is None:
        return None
    source = _section(params, "data").get("source")
    profile = place.yaml(Path(f"profiles/{source}.yaml")) or {}
    settings = _merged(params, profile)
    if table is not None:
        for changes in _changes(place, table, cell, profile):
            settings = _merged(settings, changes)
    selected = _section(settings, "localizer").get("name")
    left_out = [name for name in (*NOT_OF_A_RESULT, *LOCALIZERS) if name != selected]
    return _flat({name: value for name, value in settings.items() if name not in left_out})


def _changes(
    place: _Place, table: str, cell: str, profile: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """What the settings of a cell change, in this order."""
    of_table = _section(profile, "ablations" if table == "ablations" else "baselines")
    if table == "ablations":
        file = place.yaml(Path("ablations/params.yaml")) or {}
        own = _section(_section(file, "cells"), cell)
        return [{"train": dict(of_table)}, _section(file, "base"), own]
    published = place.yaml(Path(f"baselines/settings/{cell}.yaml")) or {}
    few_clips = _section(published, "few_clips")
    published.pop("few_clips", None)
    train = {"seeds": of_table.get("seeds"), "narrower": 1}
    train |= few_clips if of_table.get("few_clips") else {}
    supervision = {"supervision": "weak", "weak": {"form": "common"}}
    own = supervision if table == "weak" else {"supervision": "full"}
    return [published, {"train": train, **own}]


def _section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section; empty if it is not there, or no section, as in files that were never run."""
    value = settings.get(name)
    return value if isinstance(value, Mapping) else {}


def _merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(settings)
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Values by names as DVC writes them, such as `bece.lambda`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[f"{before}{name}"] = value
    return flat


def _git(top: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ("git", *arguments),
            cwd=top,
            capture_output=True,
            encoding="utf-8-sig",
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise UserError("git: not found; install it to compare revisions") from None

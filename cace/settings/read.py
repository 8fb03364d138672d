"""Reads `params.yaml` and the profile of its source, and merges them."""

from datetime import date
from pathlib import Path
from typing import Any, get_args

from pydantic_core import ErrorDetails

from cace.settings.checks import check_section, checked, printed_key
from cace.settings.schema import LOCALIZERS, NOTHING_TO_SET, Params, Source
from cace.settings.values import Section
from cace.system.errors import UserError, shown
from cace.system.files import read_text, read_yaml

# The sections of each file that a stage in dvc.yaml tracks.
PARAMS_SECTIONS = (
    *("data", "finetune", "guidance", "bece", "localizer", "train", "evaluate"),
    *("supervision", "weak"),
    *LOCALIZERS,
)
SINGLE_VALUES = ("supervision",)  # that are no sections
PROFILE_SECTIONS = (
    *("download", "decode", "encoders", "finetune", "extract", "train"),
    *("ablations", "baselines", "matching"),  # tracked by the dvc.yaml of their folder
)

# Where the work is done changes no result, so no stage tracks it: a change re-runs nothing.
UNTRACKED_SECTIONS = ("compute",)


def load_params(root: Path = Path(), source: Source | None = None) -> Params:
    """Reads and checks `params.yaml` and the profile of its source, both under `root`.

    source: to use instead of data.source.
    Raises: UserError naming the file and key, what was expected, and what came.
    """
    params = _read(root / "params.yaml", PARAMS_SECTIONS)
    if source:
        params["data"] = {"source": source, "path": None, "archive": None}
    chosen = (params.get("data") or {}).get("source")
    known = sorted(path.stem for path in (root / "profiles").glob("*.yaml"))
    if chosen not in known:
        raise UserError(
            f"params.yaml, data.source: expected one of {', '.join(known)}, got {shown(chosen)} "
            f"(profiles/ has no file of this name)"
        )
    profile_file = f"profiles/{chosen}.yaml"
    profile = _read(root / profile_file, (*PROFILE_SECTIONS, *UNTRACKED_SECTIONS))

    merged: dict[str, Any] = {}
    for section in dict.fromkeys((*params, *profile)):
        if section in SINGLE_VALUES:
            merged[section] = params[section]
            continue
        ours, theirs = params.get(section) or {}, profile.get(section) or {}
        if twice := sorted(set(ours) & set(theirs), key=str):
            raise UserError(
                f"{section}.{twice[0]}: is in params.yaml and in {profile_file}; keep one"
            )
        if section not in NOTHING_TO_SET.get(str(chosen), ()):
            merged[section] = {**theirs, **ours}
        elif theirs:
            raise UserError(
                f"{profile_file}, {section}: expected no settings ({{}}), as source {chosen} has "
                f"none here, got {shown(theirs)}"
            )
        else:
            merged[section] = None

    def file_of(problem: ErrorDetails) -> str:
        section, *keys = problem["loc"]
        in_both = section in PARAMS_SECTIONS and section in PROFILE_SECTIONS
        if in_both and problem["type"] == "missing":
            return f"params.yaml or {profile_file}, "
        ours = bool(keys) and keys[0] in (params.get(str(section)) or {})
        in_params = ours if in_both else section in PARAMS_SECTIONS
        return f"{'params.yaml' if in_params else profile_file}, "

    return checked(Params, merged, file_of)


def changed(params: Params, changes: dict[str, Any], where: str) -> Params:
    """The settings with some of their values replaced, checked again.

    Raises: UserError that names `where` and each wrong key.
    """
    merged = params.model_dump(by_alias=True)
    for section, values in changes.items():
        single = section in SINGLE_VALUES
        merged[section] = values if single else {**merged.get(section, {}), **values}
    return check_section(Params, merged, where)


def _read(path: Path, sections: tuple[str, ...]) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: not there; run this in the project's top folder")
    text = read_text(path)
    content, as_written = read_yaml(text, path), read_yaml(text, path, as_written=True)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected sections with keys, got {shown(content)}")
    for section, keys in content.items():
        if section not in sections:
            raise UserError(
                f"{path}, {printed_key(section)}: no stage tracks this section in this file; "
                f"expected one of {', '.join(sections)}"
            )
        if section in SINGLE_VALUES:
            continue
        if not isinstance(keys, dict | None):
            raise UserError(f"{path}, {section}: expected keys with values, got {shown(keys)}")
        for key in _names(section) & set(keys := keys or {}):
            if isinstance(keys[key], int | float | date):
                keys[key] = as_written[section].get(key, keys[key])
    return content


def _names(section: str) -> set[str]:
    """The keys of a section whose value is a path or a name.

    YAML reads the folder 2024 as a number, 12:30 as 750 and no as False; they are text here.
    """
    annotation = Params.model_fields[section].annotation
    model = next(kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type))
    fields = model.model_fields.items() if issubclass(model, Section) else ()
    return {name for name, field in fields if field.annotation in (str, Path | None)}

"""What dvc.yaml says about the stages: held against the code, and against what an edit re-runs."""

import ast
import json
import re
import subprocess
import sys

import jinja2
import jinja2.meta
import pytest
import yaml

from cace.settings import LOCALIZERS
from cace.system.scratch import dvc_cache, dvc_md5
from tests.project import ROOT, Project

# Changes no result, so no stage lists it: values of settings are tracked as params.
PLUMBING = (
    *("cace/__init__.py", "cace/cli", "cace/conventions.py", "cace/paths.py"),
    *("cace/settings", "cace/system", "cace/localizers/__init__.py"),
    *("stages/__init__.py", "ablations/__init__.py", "baselines/__init__.py"),
    "matching/__init__.py",
)
STAGES = {
    f"{package}.{name}": stage
    for folder, package in (
        ("", "stages"),
        ("ablations/", "ablations"),
        ("baselines/", "baselines"),
        ("matching/", "matching"),
    )
    for name, stage in yaml.safe_load((ROOT / f"{folder}dvc.yaml").read_text())["stages"].items()
}
CODE = ("cace", "stages", "ablations", "baselines", "matching")
METHODS = {f"cace/localizers/{name}.py" for name in LOCALIZERS}


def listed(stage):
    """Code among a stage's dependencies, for the default method."""
    deps = [
        re.sub(r"\$\{(localizer.name|item.cell)\}", "cace_net", dep)
        for dep in STAGES[stage]["deps"]
    ]
    return [dep for dep in deps if dep.split("/")[0] in CODE]


def imported_files(path):
    """Our modules that run when a module's imports do, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            for k in range(2, len(parts) + 1):
                place = ROOT.joinpath(*parts[:k])
                if (file := place.with_suffix(".py")).is_file():
                    yield file
                if (file := place / "__init__.py").is_file() and holds_code(file):
                    yield file


def holds_code(package):
    return len(ast.parse(package.read_text()).body) > 1  # more than a docstring


def used_modules(stage):
    """Without what plumbing imports: it computes nothing."""
    module = ROOT.joinpath(*STAGES[stage]["cmd"].split()[2].split("."))
    found, todo = (
        set(),
        [p for p in (module.with_suffix(".py"), module / "__main__.py") if p.is_file()],
    )
    while todo:
        if (path := todo.pop()) not in found:
            found.add(path)
            if not covered(path.relative_to(ROOT).as_posix(), PLUMBING):
                todo += imported_files(path)
    return {path.relative_to(ROOT).as_posix() for path in found}


def covered(file, entries):
    return any(file == entry or file.startswith(f"{entry}/") for entry in entries)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_all_code_that_shapes_its_output(stage):
    missing = {f for f in used_modules(stage) if not covered(f, (*listed(stage), *PLUMBING))}
    assert missing - METHODS == set()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_no_code_that_it_does_not_use(stage):
    used = used_modules(stage) | {"cace/localizers/cace_net.py"}  # imported by its name
    assert [entry for entry in listed(stage) if not any(covered(f, [entry]) for f in used)] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_at_most_eight_entries_of_code_and_no_plumbing(stage):
    assert len(listed(stage)) <= 8
    assert not any(
        covered(entry, PLUMBING) or covered(p, [entry]) for entry in listed(stage) for p in PLUMBING
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_as_a_module_so_that_temporary_workspaces_use_their_own_code(stage):
    python, option, module, *_ = STAGES[stage]["cmd"].split()
    assert (python, option) == ("python", "-m")
    assert module.split(".")[0] == stage.split(".")[0]
    assert used_modules(stage)


def used_templates(modules):
    """Those that modules render, and what they extend, include and import."""
    holders = ("cace/report", "ablations/figure_5", "baselines/tables", "matching/table")
    folders = [ROOT / holder / "templates" for holder in holders]
    texts = [(ROOT / module).read_text() for module in modules]
    todo = [name for text in texts for name in re.findall(r'\brender\(\s*"([^"]+)"', text)]
    found = set()
    while todo:
        name = todo.pop()
        file = next(folder / name for folder in folders if (folder / name).exists())
        if file not in found:
            found.add(file)
            todo += jinja2.meta.find_referenced_templates(
                jinja2.Environment().parse(file.read_text())
            )
    return {file.relative_to(ROOT).as_posix() for file in found}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_every_template_that_it_uses(stage):
    assert [t for t in used_templates(used_modules(stage)) if not covered(t, listed(stage))] == []


# --- the rules of the house


def modules(*folders):
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("folder", ["cace", "ablations", "baselines", "benchmarks", "matching"])
def test_nothing_imports_the_stages(folder):
    for module in modules(folder):
        assert "stages" not in {path.parent.name for path in imported_files(module)}, module


# From the source of the data to the reports: a package imports those before it.
ORDER = (
    *("system", "settings", "data", "media", "encoders", "features", "extraction", "finetuning"),
    *("localizers", "evaluation", "training", "matching", "report", "comparison", "tables"),
    *("inference", "tools", "cli"),
)


@pytest.mark.parametrize("package", ORDER)
def test_data_flows_one_way(package):
    allowed = ORDER[: ORDER.index(package) + 1]
    for module in modules(f"cace/{package}"):
        for file in imported_files(module):
            parts = file.relative_to(ROOT).parts
            assert len(parts) == 2 or parts[1] in allowed, f"{module} imports {file}"


def test_every_package_has_its_place_in_that_order():
    packages = {path.parent.name for path in (ROOT / "cace").glob("*/__init__.py")}
    assert packages == set(ORDER)


@pytest.mark.parametrize("name", LOCALIZERS)
def test_no_method_imports_another(name):
    used = {
        path.relative_to(ROOT).as_posix()
        for path in imported_files(ROOT / f"cace/localizers/{name}.py")
    }
    assert not used & METHODS


# --- what an edit re-runs, as DVC has it

EDITS = {
    "cace/system/errors.py": set(),
    "cace/system/workers.py": set(),  # progress
    "cace/system/cluster.py": set(),
    "cace/cli/__init__.py": set(),
    "cace/settings/methods.py": set(),
    "cace/settings/schema.py": set(),
    "cace/tools/doctor.py": set(),
    "cace/inference/templates/video.html": set(),
    "cace/matching/distance.py": set(),
    "cace/localizers/avel.py": set(),
    "cace/localizers/__init__.py": set(),
    "cace/localizers/cace_net.py": {"train", "evaluate"},
    "cace/localizers/parts/co_guidance.py": {"train", "evaluate"},
    "cace/evaluation/accuracy.py": {"train", "evaluate"},
    "cace/training/loop.py": {"train", "evaluate"},
    "cace/evaluation/metrics.py": {"evaluate"},
    "cace/report/templates/run.html": {"evaluate"},
    "cace/encoders/visual.py": {"frames", "finetune", "extract"},
    "cace/finetuning/contrast.py": {"finetune"},
    "cace/media/decode.py": {"decode"},
    "data/weights/own.pth": {"frames", "finetune", "extract"},
    "cace/data/sources/mini.py": {"download"},
}


# For each edit, given as JSON: change a file or make it, ask DVC, and restore the file.
ASK_DVC = """
import json, sys
from pathlib import Path
from dvc.repo import Repo

answers = []
for name, old, new in json.load(sys.stdin):
    path = Path(name)
    original = path.read_text() if path.exists() else None
    path.write_text(original.replace(old, new) if old else (original or "") + new)
    answers.append([*Repo().status("dvc.yaml")])
    path.write_text(original) if original is not None else path.unlink()
print(json.dumps(answers))
"""


def outdated_after(project, edits):
    """For each edit (file, old text, new text) the stages that DVC would run again."""
    given = json.dumps(edits)
    done = subprocess.run(
        [sys.executable, "-c", ASK_DVC],
        cwd=project.folder,
        env=project.environment,
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [set(stages) for stages in json.loads(done.stdout.splitlines()[-1])]


def test_an_edit_re_runs_what_it_shapes_and_nothing_else(project):
    untouched, *found = outdated_after(
        project, [("params.yaml", "", ""), *((file, "", "\n") for file in EDITS)]
    )
    assert untouched == set()
    assert dict(zip(EDITS, found, strict=True)) == EDITS


def test_outputs_are_known_by_the_hashes_that_dvc_gives_them(project, monkeypatch):
    lock = yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]
    outs = {out["path"]: out["md5"] for stage in lock.values() for out in stage["outs"]}
    assert {"data/media", "data/features.h5"} < set(outs)
    assert {path: dvc_md5(project.folder / path) for path in outs} == outs
    monkeypatch.chdir(project.folder)
    in_cache = [md5 for path, md5 in outs.items() if path.startswith("data/")]
    assert all((dvc_cache() / md5[:2] / md5[2:]).exists() for md5 in in_cache)


def test_a_new_setting_of_another_method_re_runs_nothing(project):
    others, own = outdated_after(
        project,
        [
            ("params.yaml", "\navel:\n", "\navel:\n  dropout: 0.1\n"),
            (
                "params.yaml",
                "  width: 32 # channels of the v",
                "  dropout: 0.1\n  width: 32 # the v",
            ),
        ],
    )
    assert (others, own) == (set(), {"train", "evaluate"})


def test_the_committed_lock_agrees_with_the_code(tmp_path):
    """The data of a fresh clone is missing; its code and settings must be those of the lock.

    The ablations' lock is committed only when they were run.
    """
    ablations = (ROOT / "ablations/dvc.lock").exists()
    project = Project(tmp_path / "cace", committed=True)
    status = json.loads(project.run("dvc", "status", "--json"))
    changed = [
        (stage, name)
        for stage, reasons in status.items()
        if ":" not in stage or ablations
        for reason in reasons
        if isinstance(reason, dict)
        for name in reason.get("changed deps", {})
        if covered(name.removeprefix("../"), CODE) or "yaml" in name
    ]
    assert changed == []

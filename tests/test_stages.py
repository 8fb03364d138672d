"""What dvc.yaml says about the stages, held against the code."""

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
STAGES = {
    f"{package}.{name}": stage
    for file, package in (("dvc.yaml", "stages"), ("ablations/dvc.yaml", "ablations"))
    for name, stage in yaml.safe_load((ROOT / file).read_text())["stages"].items()
}


def imported_files(path):
    """Our modules that a module names in an import, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if (file := ROOT.joinpath(*name.split(".")).with_suffix(".py")).is_file():
                yield file


def used_modules(stage):
    found, todo = set(), [ROOT.joinpath(*stage.split(".")).with_suffix(".py")]
    while todo:
        if (path := todo.pop()) not in found:
            found.add(path)
            todo += imported_files(path)
    return {path.relative_to(ROOT).as_posix() for path in found}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_module_that_it_uses(stage):
    code = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    assert code == used_modules(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_as_a_module_so_that_temporary_workspaces_use_their_own_code(stage):
    assert STAGES[stage]["cmd"].split(" $")[0] == f"python -m {stage}"


def test_packages_without_code_need_not_be_listed():
    for init in (*ROOT.glob("cace/*/__init__.py"),):
        assert len(ast.parse(init.read_text()).body) == 1, f"{init} holds more than a docstring"


def test_the_library_never_imports_the_stages():
    for module in ROOT.glob("cace/**/*.py"):
        assert "stages" not in {path.parent.name for path in imported_files(module)}, module

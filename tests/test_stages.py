"""What dvc.yaml says about the stages, held against the code."""

import ast
import re
from pathlib import Path

import jinja2
import jinja2.meta
import pytest
import yaml

ROOT = Path(__file__).parent.parent
STAGES = {
    f"{package}.{name}": stage
    for file, package in (("dvc.yaml", "stages"), ("ablations/dvc.yaml", "ablations"))
    for name, stage in yaml.safe_load((ROOT / file).read_text())["stages"].items()
}


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


def used_templates(modules):
    """Those that modules render, and what they extend, include and import."""
    folder = ROOT / "cace/report/templates"
    texts = [(ROOT / module).read_text() for module in modules]
    todo = [name for text in texts for name in re.findall(r'\brender\(\s*"([^"]+)"', text)]
    found = set()
    while todo:
        if (name := todo.pop()) not in found:
            found.add(name)
            parsed = jinja2.Environment().parse((folder / name).read_text())
            todo += jinja2.meta.find_referenced_templates(parsed)
    return {(folder / name).relative_to(ROOT).as_posix() for name in found}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_template_that_it_uses(stage):
    templates = {dep for dep in STAGES[stage]["deps"] if "/templates/" in dep}
    assert templates == used_templates(used_modules(stage))


def test_the_library_never_imports_the_stages():
    for module in ROOT.glob("cace/**/*.py"):
        assert "stages" not in {path.parent.name for path in imported_files(module)}, module

"""The checks on GitHub. They have not run there: only the form of the file is tested."""

import subprocess
import sys

import yaml

from tests.project import ROOT

FILE = ROOT / ".github/workflows/check.yml"


def checked(file):
    command = ("-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows")
    return subprocess.run([sys.executable, *command, file], capture_output=True, check=False)


def test_the_workflow_has_the_form_that_github_expects():
    assert checked(FILE).returncode == 0


def test_another_form_would_be_noticed(tmp_path):
    wrong = tmp_path / "check.yml"
    wrong.write_text(FILE.read_text().replace("runs-on:", "runs_on:"))
    assert checked(wrong).returncode == 1


def test_it_runs_only_targets_of_the_makefile():
    jobs = yaml.safe_load(FILE.read_text())["jobs"].values()
    ran = [step["run"].split()[1] for job in jobs for step in job["steps"] if "make" in str(step)]
    targets = {line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines()}
    assert ran == ["lint", "test", "compare"]
    assert set(ran) <= targets

"""No text of a user reaches a shell, and no file of a user is run."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SOURCES = [
    p
    for folder in ("ablations", "baselines", "cace", "matching", "stages")
    for p in (ROOT / folder).rglob("*.py")
]


def calls_in(path):
    """Each call as (what is called, its arguments by name)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            yield ast.unparse(node.func), arguments


@pytest.mark.parametrize("folder", ["", "ablations", "baselines", "matching"])
def test_a_stages_command_holds_nothing_but_words_of_its_own_file(folder):
    for stage in yaml.safe_load((ROOT / folder / "dvc.yaml").read_text())["stages"].values():
        for key in re.findall(r"\$\{(.*?)\}", stage["cmd"]):
            assert key.startswith("item.")  # not of params.yaml
            words = stage["matrix"][key.removeprefix("item.")]
            assert all(re.fullmatch(r"\w+", word) for word in words)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_uses_a_shell_or_runs_a_file(path):
    for function, arguments in calls_in(path):
        assert "shell" not in arguments
        assert function not in ("os.system", "os.popen", "eval", "exec", "yaml.load")
        assert not re.match("c?[Pp]ickle|joblib|dill", function)
        assert arguments.get("allow_pickle", "False") == "False"
        if function == "torch.load":
            assert arguments["weights_only"] == "True"

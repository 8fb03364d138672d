"""Every command of the README and of docs is run, as a reader would, in a small project.

Its stages after `download` copy what a finished run wrote: that they train is tested elsewhere.
"""

import re
import shutil

import pytest
import yaml

from tests.project import ROOT


def blocks(page):
    return re.findall(r"^```(sh|python)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if blocks(page)
]
# Where these need the network, they end in the message that says what to get, and from where.
OFFLINE = {
    "dvc exp run --temp -n ave -S data.source=ave": "AVE_Dataset.zip",
    "dvc exp run --temp -n released -S data.source=released -S data.path=/path/to/files": (
        "visual_feature.h5"
    ),
}
# 21, 18 and 8 trainings: test_experiments.py runs one of each.
TOO_LONG = {
    *("dvc repro ablations/dvc.yaml", "dvc repro baselines/dvc.yaml"),
    "dvc repro --keep-going baselines/dvc.yaml",
    "dvc repro baselines/dvc.yaml:table_weak",
}


COPYING_STAGE = """
import shutil
from pathlib import Path

for name in {outs}:
    source, target = Path({finished!r}) / name, Path(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)
"""


def outputs(stage):
    listed = (*stage.get("outs", ()), *stage.get("metrics", ()), *stage.get("plots", ()))
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in listed]


def copy_instead(reader, finished):
    """Replaces all stages but `download` by ones that copy the outputs of a finished project."""
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        if name != "download":
            script = COPYING_STAGE.format(outs=outputs(stage), finished=str(finished.folder))
            (reader.folder / f"stages/{name}.py").write_text(script)
    downloads = reader.folder / "cace/system/downloads.py"
    text, changed = re.subn("^PAUSES = .*", "PAUSES = ()", downloads.read_text(), flags=re.M)
    assert changed == 1
    downloads.write_text(text)
    reader.run("dvc", "repro")
    reader.commit("stages that copy")


@pytest.fixture(scope="session")
def copying(project, tmp_path_factory):
    """A project whose stages copy. Tests leave it so."""
    copying = project.copy_to(tmp_path_factory.mktemp("copying") / "cace")
    copy_instead(copying, project)
    return copying


@pytest.fixture
def reader(copying, tmp_path, page):
    """Somebody in a project of his own, with videos and clips of his own, and without a network."""
    reader = copying.copy_to(tmp_path / "cace")
    folder = reader.folder
    if any("matching/" in text for _, text in blocks(page)):  # DVC reads it with every command
        shutil.copy(ROOT / "matching/dvc.yaml", folder / "matching")
        reader.commit("matching")
    clips = tmp_path / "clips"
    shutil.copytree(folder / "data/media", clips, copy_function=shutil.copyfile)
    (clips / "manifest.csv").unlink()
    for text in clips.glob("*.txt"):  # so few clips of many categories could not be learned
        text.write_text(re.sub(r"^(?!Category&)[^&]+&", "Bark&", text.read_text(), flags=re.M))
    (folder / "videos").mkdir()
    for name, video in zip(("../holiday.mp4", "b.mp4"), (clips / "AVE").iterdir(), strict=False):
        shutil.copyfile(video, folder / "videos" / name)
    (tmp_path / "files").mkdir()
    return reader


def as_run(command, reader):
    """The command with the reader's own paths and names, and a shorter queue."""
    outside = reader.folder.parent
    for place in ("clips", "files", "storage"):
        command = command.replace(f"/path/to/{place}", str(outside / place))
    command = command.replace("/path/to/repository", str(reader.folder))
    command = command.replace("0.2,0.4,0.6,0.8", "0.2,0.8")
    command = command.replace("EXPERIMENT", "$(dvc exp list --name-only | head -1)")
    return re.sub(r"^make\b", f"make --dry-run -C {ROOT}", command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_the_page_runs(page, reader):
    for language, text in blocks(page):
        if language == "python":
            reader.run("python", "-c", text)
            continue
        script = ["set -euo pipefail", "export HTTPS_PROXY=http://127.0.0.1:9"]
        for command in text.splitlines():
            bare = re.sub(r"\s+#.*", "", command).strip()
            if bare in OFFLINE:
                # What DVC left may be of the old length and time, and git take it for unchanged.
                reader.run("bash", "-c", "touch params.yaml && git checkout -q .")
                assert OFFLINE[bare] in reader.run(
                    "env", "HTTPS_PROXY=http://127.0.0.1:9", "bash", "-c", as_run(bare, reader),
                    fails=True,
                )  # fmt: skip
            elif bare and bare not in TOO_LONG:
                script.append(as_run(bare, reader))
        assert "ERROR" not in reader.run("bash", "-c", "\n".join(script))


def test_every_page_is_read():
    commands = [text for page in PAGES for language, text in blocks(page)]
    assert len(commands) >= 10
    text = "".join(commands)
    assert all(command in text for command in (*OFFLINE, *TOO_LONG))

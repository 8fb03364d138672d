"""A copy of this project in a repository of its own, with very small data."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests import forks

ROOT = Path(__file__).parent.parent
COPIED = (
    *("ablations", "baselines", "cace", "matching", "profiles", "stages"),
    *("params.yaml", "pyproject.toml", "dvc.yaml"),
    *(".dvc/.gitignore", ".dvc/config", ".dvcignore", ".gitignore"),
    *("data/.gitignore", "data/index.csv", "data/models/.gitignore", "data/weights/.gitignore"),
)

SMALL = """\
download:
  clips: 15
  seed: 0
  width: 96
  height: 72
  fps: 4
decode:
  fps: 2
  short_side: 68
  crop: 64
  jpeg_quality: 90
  backend: pyav
  min_seconds: 9.0
  deadline_seconds: 120.0
  max_bad_fraction: 0.05
encoders:
  visual: efficientnet_lite0
  visual_weights: imagenet
  audio: logmel
  audio_weights: none
finetune:
  epochs: 1
  maps_epochs: 2
  batch_size: 4
  learning_rate: 1.0e-4
  maps_learning_rate: 1.0e-3
  dimensions: 16
  symmetric: true
  seed: 0
extract:
  batch_size: 20
  precision: float32
train:
  epochs: 2
  batch_size: 4
  learning_rate: 7.0e-4
  milestones:
  - 1
  decay: 0.5
  max_grad_norm: 0.5
  precision: float32
ablations:
  epochs: 1
  seeds:
  - 0
baselines:
  seeds:
  - 0
  few_clips: true
matching:
  seeds:
  - 0
  few_clips: true
compute:
  engine: local
"""


class Project:
    """A copy of this project in a repository of its own, with very small data.

    folder: made, unless it is one already.
    committed: with the lock files and the settings as they are committed.
    """

    def __init__(self, folder: Path, committed: bool = False) -> None:
        self.folder = folder
        if folder.exists():
            return
        for name in (*COPIED, *(["dvc.lock"] if committed else [])):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        if not committed:
            self._make_small()
        self.run("git", "init", "-q", "-b", "main")
        self.commit("start")

    def _make_small(self) -> None:
        # DVC reads their stages with every command. The tests that run them put them back.
        for name in ("dvc.yaml", "dvc.lock"):
            (self.folder / "ablations" / name).unlink(missing_ok=True)
            (self.folder / "baselines" / name).unlink(missing_ok=True)
            (self.folder / "matching" / name).unlink(missing_ok=True)
        for file in (self.folder / "baselines/settings").glob("*.yaml"):
            text = re.sub(r"epochs: .*", "epochs: 1", file.read_text())
            file.write_text(re.sub(r"width: .*", "width: 16", text))
        (self.folder / "profiles/mini.yaml").write_text(SMALL)
        (self.folder / "profiles/folder.yaml").write_text(
            SMALL.replace(SMALL[: SMALL.find("decode")], "download: {}\n")
        )
        params = self.folder / "params.yaml"
        text = params.read_text().replace("  width: 512", "  width: 32")
        params.write_text(text.replace("  - 0\n  - 1\n  - 2\n", "  - 0\n"))

    def copy_to(self, folder: Path) -> "Project":
        """Shares what DVC and git keep read-only, which is most of it."""

        def share(source: str, target: str) -> None:
            writable = Path(source).stat().st_mode & 0o222
            (shutil.copy2 if writable else os.link)(source, target)

        shutil.copytree(self.folder, folder, copy_function=share)
        return Project(folder)

    def run(self, *command: str, fails: bool = False) -> str:
        """Runs a command in the project, with the quick programs; returns what it printed."""
        path = f"{forks.programs()}{os.pathsep}{self.environment['PATH']}"
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        text = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, text
        return text

    @property
    def environment(self) -> dict[str, str]:
        """Of the commands: this Python's programs, one worker, an identity for git."""
        return {key: v for key, v in os.environ.items() if not key.startswith("DVC_")} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "CACE_WORKERS": "1",
            "DVC_SITE_CACHE_DIR": str(self.folder.parent / f"{self.folder.name}-site"),
            "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t",
            "GIT_COMMITTER_EMAIL": "t@t",
        }  # fmt: skip

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", message)

    def json(self, name: str):
        return json.loads((self.folder / name).read_text())

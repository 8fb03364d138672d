"""What importing loads, and that it works without a home folder."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.project import Project

HEAVY = (
    "librosa",
    "matplotlib",
    "numba",
    "panns_inference",
    "scipy",
    "timm",
    "torchvision",
    "transformers",
)


def run(program, **environment):
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Training and localizing, with mini's encoders; then the names of all modules.
WITHOUT_HEAVY = """
import cace.inference, cace.training.runs, cace.localizers.cace_net
from cace.encoders import audio, visual
visual.visual_encoder("efficientnet_lite0", "imagenet")
audio.audio_encoder("logmel", "none")
import json, sys
print(json.dumps([name for name in sys.modules if "." not in name]))
"""


def test_heavy_libraries_are_imported_only_if_they_are_used():
    loaded = json.loads(run(WITHOUT_HEAVY))
    assert [name for name in HEAVY if name in loaded] == []
    assert "torch" in loaded


def test_every_audio_encoder_works_without_a_home_and_writes_nothing(tmp_path):
    program = (
        "import sys, torch\nfrom cace.encoders.audio import audio_encoder\n"
        "def channels(name): return audio_encoder(name, 'none')(torch.zeros(1, 32000)).shape[1]\n"
        "print(channels('logmel'), channels('vggish'), channels('cnn14'))\n"
        "print([n for n in ('librosa', 'numba', 'matplotlib') if n in sys.modules])"
    )
    home = {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent", "TMPDIR": str(tmp_path)}
    assert run(program, **home, PYTHONDONTWRITEBYTECODE="1") == "128 128 2048\n[]\n"
    assert not list(tmp_path.iterdir())


NOBODY = "65534"


@pytest.fixture
def nobodys_project(project, tmp_path):
    """A finished project of a user without a name and a home, who may write nowhere else."""
    read_all = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    become = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *read_all)
    if not shutil.which("setpriv") or subprocess.run([*become, "true"], check=False).returncode:
        pytest.skip("this process may not become another user")
    shutil.copytree(project.folder, tmp_path / "cace")
    copy = Project(tmp_path / "cace")
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, int(NOBODY), int(NOBODY), follow_symlinks=False)
    home = ("env", "HOME=/nonexistent", "XDG_CACHE_HOME=/nonexistent")
    return lambda *command: copy.run(*become, *home, *command)


@pytest.mark.slow
def test_a_user_without_a_home_runs_the_pipeline_and_localizes(nobodys_project, tmp_path):
    assert "segment accuracy on test" in nobodys_project("dvc", "repro", "-f", "evaluate")
    clip = next((tmp_path / "cace/data/media/AVE").iterdir())
    assert "Traceback" not in nobodys_project("cace", "localize", str(clip), "--out", "found")
    assert list((tmp_path / "cace/found").iterdir())

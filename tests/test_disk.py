"""No room, or no right to write: one message, and nothing wrong is left for a later run to take."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.project import Project
from tests.test_kills import written

MESSAGE = "Free space, or make it writable, and run the same command again: it resumes"
LIMITS = {"download": 50, "decode": 300, "finetune": 300, "extract": 300, "train": 300}  # KiB


@pytest.mark.parametrize(
    "stage",
    [pytest.param(s, marks=[] if s == "decode" else [pytest.mark.slow]) for s in LIMITS],
)
def test_a_full_disk_ends_in_one_message_and_leaves_nothing_wrong(project, stage):
    before, changes = written(project.folder, stage), project.run("git", "status", "--porcelain")
    # Files of at most so many KiB stand for the full disk.
    limited = f"ulimit -f {LIMITS[stage]}; exec {sys.executable} -m stages.{stage}"
    printed = project.run("bash", "-c", limited, fails=True)
    assert re.fullmatch(f"error: .*: File too large. {MESSAGE}", printed.splitlines()[-1])
    assert stage == "extract" or "Traceback" not in printed  # there HDF5 complains for itself
    for _ in range(2):
        assert written(project.folder, stage) == before
        assert project.run("git", "status", "--porcelain") == changes
        project.run("python", "-m", f"stages.{stage}")


PRINTS = """
from cace.system.errors import UserError, run
def main():
    print("the results")
    {then}
run(main)
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")  # noqa: PTH110
@pytest.mark.parametrize(
    ("then", "failure"), [("pass", ""), ("raise UserError('2 problems')", "error: 2 problems\n")]
)
def test_an_output_that_is_full_is_named(then, failure):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        command = [sys.executable, "-c", PRINTS.format(then=then)]
        buffered = {key: v for key, v in os.environ.items() if key != "PYTHONUNBUFFERED"}
        done = subprocess.run(
            command, env=buffered, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    expected = f"{failure}error: standard output: No space left on device. {MESSAGE}\n"
    assert (done.returncode, done.stderr) == (1, expected)


def as_plain_user(*command):
    """The command with the rights of a file's owner: root may write wherever it likes."""
    if os.geteuid() != 0:
        return command
    plain = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    if not shutil.which("setpriv") or subprocess.run([*plain, "true"], check=False).returncode:
        pytest.skip("root may write everywhere, and setpriv cannot take that from it")
    return (*plain, *command)


def test_a_folder_that_cannot_be_written_is_named_and_unchanged(project):
    before = written(project.folder, "decode")
    (project.folder / "data").chmod(0o555)
    try:
        printed = project.run(*as_plain_user(sys.executable, "-m", "stages.decode"), fails=True)
        assert written(project.folder, "decode") == before
    finally:
        (project.folder / "data").chmod(0o755)
    assert printed.splitlines()[-1] == f"error: data/clips: Permission denied. {MESSAGE}"
    printed = project.run("python", "-m", "stages.decode")
    assert "decode: shards" not in printed  # they were kept
    assert written(project.folder, "decode") == before


@pytest.mark.slow
def test_fine_tuning_that_cannot_write_its_result_keeps_its_state(project):
    models = project.folder / "data/models"
    models.chmod(0o555)
    try:
        printed = project.run(*as_plain_user(sys.executable, "-m", "stages.finetune"), fails=True)
    finally:
        models.chmod(0o755)
    assert "finetune: sounds" in printed and "Permission denied" in printed
    assert "finetune: sounds" not in project.run("python", "-m", "stages.finetune")


@pytest.mark.slow
def test_a_full_cache_stores_nothing_wrong_and_the_rest_later(tmp_path):
    project = Project(tmp_path / "cace")
    (project.folder / ".dvc/cache").mkdir()
    alone = ("unshare", "--map-root-user", "--mount")
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("no file system of 100 KiB can be mounted here")
    printed = project.run(
        *alone,
        "bash",
        "-c",
        "mount -t tmpfs -o size=100k tmpfs .dvc/cache && dvc repro download;"
        "cd .dvc/cache/files/md5 && find . -type f ! -name '.*.tmp' -exec md5sum {} +",
    )
    assert "failed to transfer" in printed and "No space left on device" in printed
    for found, place in re.findall(r"^([0-9a-f]{32})  \./(\S+)$", printed, re.MULTILINE):
        assert place.replace("/", "").removesuffix(".dir") == found
    assert "data/media" in project.run("dvc", "data", "status")
    project.run("dvc", "commit", "download")
    assert "Not in cache" not in project.run("dvc", "data", "status")
    assert "Running stage" not in project.run("dvc", "repro", "download")

"""Stages killed at random moments and started again end as an undisturbed run does."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.project import Project

STAGES = {
    "download": ["data/media"],
    "decode": ["data/clips"],
    "finetune": ["data/models/visual_encoder.pt", "metrics/finetune.json", "metrics/finetune.csv"],
    "extract": ["data/features.h5"],
    "train": ["data/models/localizer", "metrics/train.json", "metrics/curves"],
}


class Undisturbed:
    """A finished project, how long each stage took, and what it wrote."""

    def __init__(self, project):
        self.project = project
        self.seconds, self.written = {}, {}
        for stage in STAGES:
            start = time.monotonic()
            project.run("python", "-m", f"stages.{stage}")
            self.seconds[stage] = time.monotonic() - start
            self.written[stage] = written(project.folder, stage)


def start(project, stage):
    return subprocess.Popen(
        ["python", "-m", f"stages.{stage}"],
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def written(folder: Path, stage: str) -> dict[str, bytes]:
    files = {}
    for name in STAGES[stage]:
        out = folder / name
        for path in sorted(out.rglob("*")) if out.is_dir() else [out]:
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = path.read_bytes()
    return files


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return Undisturbed(Project(tmp_path_factory.mktemp("kills") / "cace"))


def kill_then_finish(undisturbed, stage, moments):
    """Kills the stage at those shares of its usual time, and lets it finish then."""
    project = undisturbed.project
    for moment in moments:
        running = start(project, stage)
        time.sleep(moment * undisturbed.seconds[stage])
        running.send_signal(signal.SIGKILL)
        running.wait()
    project.run("python", "-m", f"stages.{stage}")
    return written(project.folder, stage)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_killed_again_and_again_goes_on_to_the_same_bytes(undisturbed, stage):
    moments = [random.Random(f"{stage}{k}").uniform(0.1, 1) for k in range(6)]
    assert kill_then_finish(undisturbed, stage, moments) == undisturbed.written[stage]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["dvc repro", "dvc exp run --temp -n resumed"])
def test_a_killed_dvc_goes_on_to_the_same_metrics(project, tmp_path, command):
    disturbed = Project(tmp_path / "cace")
    disturbed.run("dvc", "repro", "extract")
    disturbed.commit("features")
    running = subprocess.Popen(
        command.split(),
        cwd=disturbed.folder,
        env=disturbed.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not list(disturbed.folder.glob(".work/train/*/state/seed-0.pt")):
        assert running.poll() is None
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    printed = disturbed.run(*command.split())
    assert "Running stage 'train'" in printed
    assert "train seed-0: epoch 1/2" not in printed
    if "--temp" in command:
        disturbed.run("dvc", "exp", "apply", "resumed")
    assert disturbed.json("metrics/eval.json") == project.json("metrics/eval.json")


@pytest.mark.slow
def test_two_runs_at_once_do_not_harm_each_other(undisturbed):
    project = undisturbed.project
    both = [start(project, "train") for _ in range(2)]
    assert [running.wait() for running in both] == [0, 0]
    assert written(project.folder, "train") == undisturbed.written["train"]

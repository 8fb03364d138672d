"""Stages killed at random moments and started again end as an undisturbed run does."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tests.project import ROOT, Project

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
    return begin(project, f"python -m stages.{stage}")


def begin(project, command):
    """Runs a command with nobody who reads what it prints, and in a separate session."""
    return subprocess.Popen(
        command.split(),
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
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
    shutil.rmtree(project.folder / ".work", ignore_errors=True)
    for moment in moments:
        running = start(project, stage)
        time.sleep(moment * undisturbed.seconds[stage])
        running.send_signal(signal.SIGKILL)
        running.wait()
    project.run("python", "-m", f"stages.{stage}")
    return written(project.folder, stage)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_killed_again_and_again_gives_the_same_bytes(undisturbed, stage):
    moments = [random.Random(f"{stage}{k}").uniform(0.1, 1) for k in range(6)]
    assert kill_then_finish(undisturbed, stage, moments) == undisturbed.written[stage]


def untrained(project, folder):
    """A copy of the finished project as it was before `train`."""
    copy = project.copy_to(folder)
    lock = yaml.safe_load((copy.folder / "dvc.lock").read_text())
    for stage in ("train", "evaluate"):
        del lock["stages"][stage]
    (copy.folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    (copy.folder / "metrics/eval.json").unlink()
    for gone in ("data/models/localizer", ".dvc/cache/runs"):
        shutil.rmtree(copy.folder / gone)
    copy.commit("untrained")
    return copy


def wait_for_an_epoch(project, running):
    """Returns when the training of the first seed has kept an epoch."""
    while not list(project.folder.glob(".work/train/*/state/seed-0.pt")):
        assert running()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["dvc repro", "dvc exp run --temp -n resumed"])
def test_a_killed_dvc_resumes_to_the_same_metrics(project, tmp_path, command):
    disturbed = untrained(project, tmp_path / "cace")
    running = begin(disturbed, command)
    wait_for_an_epoch(disturbed, lambda: running.poll() is None)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    printed = disturbed.run(*command.split())
    assert "Running stage 'train'" in printed
    assert "train seed-0: epoch 1/2" not in printed
    if "--temp" in command:
        disturbed.run("dvc", "exp", "apply", "resumed")
    assert disturbed.json("metrics/eval.json") == project.json("metrics/eval.json")


def processes_in(folder):
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder):
                yield process


def is_stage(process):
    return "stages.train" in process.cmdline()


def in_queue(project):
    """What has become of the one experiment in the queue."""
    return project.run("dvc", "queue", "status").split("resumed")[1].split()[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dies", "status", "fixes"),
    [
        (is_stage, "Failed", ["dvc queue remove resumed"]),
        (lambda _: True, "Running", ["dvc queue kill resumed", "dvc queue remove resumed"]),
    ],
    ids=["the stage", "everything"],
)
def test_a_killed_queue_resumes_as_the_docs_describe(project, tmp_path, dies, status, fixes):
    disturbed = untrained(project, tmp_path / "cace")
    queue = ["dvc exp run --queue -n resumed", "dvc queue start"]
    for command in queue:  # a worker would hold the pipes of a command whose output is read
        assert begin(disturbed, command).wait() == 0
    wait_for_an_epoch(disturbed, lambda: any(processes_in(disturbed.folder)))
    dying = list(filter(dies, processes_in(disturbed.folder)))
    for process in dying:  # none of them shall see another one die
        process.suspend()
    for process in dying:
        process.kill()
    while any(is_stage(process) for process in processes_in(disturbed.folder)):
        time.sleep(0.5)
    if status == "Failed":  # which the worker has yet to note
        while in_queue(disturbed) == "Running":
            time.sleep(1)
    assert in_queue(disturbed) == status
    for command in (*fixes, *queue):
        assert begin(disturbed, command).wait() == 0
        while command.startswith("dvc queue kill") and in_queue(disturbed) == "Running":
            time.sleep(1)  # what is killed is noted a moment later
    while in_queue(disturbed) in ("Queued", "Running"):
        time.sleep(2)
    printed = disturbed.run("dvc", "queue", "logs", "resumed")
    assert "Running stage 'train'" in printed
    assert "train seed-0: epoch 1/2" not in printed
    disturbed.run("dvc", "exp", "apply", "resumed")
    assert disturbed.json("metrics/eval.json") == project.json("metrics/eval.json")
    page = (ROOT / "docs/troubleshooting.md").read_text()
    for command in (*fixes, *queue):
        assert command.replace("resumed", "NAME") in page


KILLS = 30
# What a stage prints while it works, and not when it only publishes finished work.
WORKING = {
    "download": "download: clips rendered",
    "decode": "decode: shards",
    "finetune": "finetune: ",
    "extract": "extract: clips",
    "train": "train seed-0: epoch",
}


class Kills:
    """A project that is run from the start, and killed, until it is done, again and again."""

    def __init__(self, folder, rng):
        self.project, self.rng = Project(folder), rng
        self.log = folder.with_suffix(".log")
        self.finished = set()  # stages, in this round
        self.hashing = 0  # kills between the end of a stage's process and DVC's record of it

    def run(self, moment):
        """Runs `dvc repro` up to a moment, and kills it; returns whether it ended before that."""
        with self.log.open("w") as log:
            running = subprocess.Popen(
                ["dvc", "repro"],
                cwd=self.project.folder,
                env=self.project.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            before = set(self.finished)
            moment(running)
            done = running.poll() is not None
            works = not done and stage_of(running)
            if not done:
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()
        printed = self.log.read_text()
        for stage in before:
            assert WORKING[stage] not in printed, f"{stage} was finished:\n{printed}"
        self.finished |= self.marked()
        last = re.findall("Running stage '(.*)'", printed)[-1:]
        unrecorded = self.marked() - self.recorded()
        self.hashing += bool(not done and not works and last and last[0] in unrecorded)
        assert not done or running.returncode == 0, printed
        return done

    def marked(self):
        return {path.parent.name for path in self.project.folder.glob(".work/*/*.finished")}

    def recorded(self):
        """Stages whose outputs DVC has in dvc.lock and in its cache.

        dvc.lock alone is no proof: a round may start with that of a finished run.
        What a kill of DVC left half written is removed, as the page on troubleshooting advises.
        """
        rwlock = self.project.folder / ".dvc/tmp/rwlock"
        if rwlock.exists() and not rwlock.read_text().strip():
            rwlock.unlink()
        lock = self.project.folder / "dvc.lock"
        if lock.exists():
            with contextlib.suppress(yaml.YAMLError, TypeError, KeyError):
                stages = yaml.safe_load(lock.read_text())["stages"]
                return {name for name, stage in stages.items() if self.has_cached(stage["outs"])}
            lock.unlink()
        return set()

    def has_cached(self, outs):
        cache = self.project.folder / ".dvc/cache/files/md5"
        hashes = [out["md5"] for out in outs if out["path"].startswith("data/")]
        return all((cache / md5[:2] / md5[2:]).exists() for md5 in hashes)

    def any_time(self, running):
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(self.rng.uniform(1, 12))

    def while_dvc_hashes(self, running):
        """Soon after another stage has finished."""
        before = self.marked() | self.finished
        while running.poll() is None and not self.marked() - before:
            time.sleep(0.01)
        while running.poll() is None and stage_of(running):
            time.sleep(0.005)
        time.sleep(self.rng.uniform(0, 0.05))

    def start_over(self, with_lock):
        """As after a clone, with or without a dvc.lock of a finished run."""
        if not with_lock:
            self.project.run("git", "reset", "-q", "--hard")
        self.project.run("git", "clean", "-qfdx")
        self.finished.clear()


def stage_of(running):
    """The processes of the stage that DVC runs."""
    found = []
    for process in psutil.Process(running.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += [word for word in process.cmdline() if word.startswith("stages.")]
    return found


@pytest.mark.slow
def test_dvc_that_is_killed_gives_the_same_results_and_runs_no_finished_stage_again(
    project, tmp_path
):
    kills = Kills(tmp_path / "cace", random.Random(0))
    count = rounds = 0
    while count < KILLS:
        done = kills.run(kills.while_dvc_hashes if count % 3 else kills.any_time)
        count += not done
        if done or count == KILLS:
            if not done:
                kills.run(subprocess.Popen.wait)
            for stage in STAGES:
                assert written(kills.project.folder, stage) == written(project.folder, stage)
            assert kills.project.json("metrics/eval.json") == project.json("metrics/eval.json")
            rounds += 1
            kills.start_over(with_lock=rounds % 2)
    print(f"{kills.hashing} of {count} kills while DVC hashed")
    assert kills.hashing >= KILLS // 2


@pytest.mark.slow
def test_two_runs_at_once_do_not_harm_each_other(undisturbed):
    project = undisturbed.project
    both = [start(project, "train") for _ in range(2)]
    assert [running.wait() for running in both] == [0, 0]
    assert written(project.folder, "train") == undisturbed.written["train"]

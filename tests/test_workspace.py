import errno
import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml
from filelock import FileLock

from cace.system.errors import UserError
from cace.system.files import publish, write_atomically, write_json
from cace.system.scratch import all_work, remove_recorded, scratch
from cace.system.workers import LostError, in_process, workers
from tests.workspaces import make_workspace, work_of


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    return make_workspace(tmp_path, monkeypatch)


def begin(*identity, leave):
    """Starts work, leaves files, and is killed."""
    with pytest.raises(KeyboardInterrupt), scratch("decode", *identity) as work:
        for name in leave:
            (work / name).write_text("x")
        raise KeyboardInterrupt


def found(*identity):
    with scratch("decode", *identity) as work:
        return sorted(path.name for path in work.iterdir())


def test_unfinished_work_is_found_again():
    begin("a", {"fps": 4}, leave=["shard"])
    assert found("a", {"fps": 4}) == ["shard"]


def test_work_on_other_inputs_is_not_mistaken_for_it():
    begin("a", {"fps": 4}, leave=["shard"])
    assert found("a", {"fps": 8}) == []


def change_code(root):
    (root / "cace/code.py").write_text("answer = 42\n")


def test_work_of_other_code_is_removed(root):
    begin("a", leave=["shard"])
    change_code(root)
    assert found("a") == []
    assert len(work_of(root, "decode")) == 1


def test_work_of_other_code_stays_while_a_run_uses_it(root):
    with scratch("decode", "a") as work:
        (work / "shard").write_text("x")
        change_code(root)
        assert found("a") == []
        assert (work / "shard").exists()


def test_work_on_other_inputs_stays(root):
    begin("a", leave=["shard"])
    assert found("b") == []
    assert found("a") == ["shard"]


def test_work_is_of_the_code_that_its_stage_lists(root):
    begin("a", leave=["shard"])
    (root / "cace/other.py").write_text("")
    assert found("a") == ["shard"]
    begin("a", leave=["shard"])
    dvc = root / "dvc.yaml"
    dvc.write_text(dvc.read_text().replace("cace/code.py", "cace"))
    assert found("a") == []


def test_the_listed_code_depends_on_the_settings(root):
    dvc = root / "dvc.yaml"
    dvc.write_text(dvc.read_text().replace("code.py", "${data.source}.py"))
    begin("a", leave=["shard"])
    (root / "cace/mini.py").write_text("")
    assert found("a") == []


def test_work_on_another_value_of_the_setting_stays(root):
    dvc, params = root / "dvc.yaml", root / "params.yaml"
    dvc.write_text(dvc.read_text().replace("code.py", "${data.source}.py"))
    begin("a", leave=["shard"])
    settings = params.read_text()
    params.write_text(settings.replace("mini", "ave"))
    assert found("a") == []
    params.write_text(settings)
    assert found("a") == ["shard"]


def test_an_unknown_stage_is_named():
    with pytest.raises(UserError, match=r"dvc.yaml: expected a stage nobody, got download, "):
        scratch("nobody").__enter__()


def test_outside_of_a_project_the_missing_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"dvc.yaml: not there; run this in the project's top"):
        scratch("decode").__enter__()


def finish(stage, *identity):
    with scratch(stage, *identity) as work:
        (work / "out").write_text("x")


def start(stage, *identity):
    """What a stage finds when it starts."""
    with scratch(stage, *identity) as work:
        return sorted(path.name for path in work.iterdir())


def test_finished_work_stays_until_dvc_has_recorded_it_and_starts_the_next_stage(root):
    finish("decode", "a")
    assert start("decode", "a") == ["out"]  # DVC was killed while it hashed
    start("download", "a")
    assert start("decode", "a") == ["out"]
    start("finetune", "a")
    assert work_of(root, "decode") == []


def test_unfinished_work_stays_when_the_next_stage_starts(root):
    begin("a", leave=["shard"])
    start("finetune", "a")
    assert found("a") == ["shard"]


def test_finished_work_of_another_workspace_stays_while_that_exists(root, monkeypatch):
    shutil.copytree(root, root / "temporary")
    monkeypatch.chdir(root / "temporary")
    finish("decode", "a")
    monkeypatch.chdir(root)
    start("finetune", "a")
    assert len(work_of(root, "decode")) == 1
    shutil.rmtree(root / "temporary")
    start("finetune", "b")
    assert work_of(root, "decode") == []


def test_finished_work_stays_while_another_run_uses_it(root):
    finish("decode", "a")
    with scratch("decode", "a") as work:
        start("finetune", "a")
        assert (work / "out").exists()


def test_an_output_of_a_matrix_counts_as_the_folder_around_it(root):
    stages = """
      decode: {deps: [cace/code.py], outs: ["data/cells/${item.cell}": {cache: false}]}
      train: {deps: [data/cells]}
    """
    (root / "dvc.yaml").write_text(f"stages:{stages}")
    finish("decode", "a")
    remove_recorded("dvc.yaml:train")
    assert work_of(root, "decode") == []


@pytest.mark.parametrize(
    ("recorded", "cached", "expected"),
    [
        ("x", "x", []),
        ("y", "y", ["decode"]),
        ("x", "y", ["decode"]),  # dvc.lock of a fresh clone
    ],
)
def test_finished_work_that_dvc_has_is_done_again_as_dvc_was_told_to(
    root, monkeypatch, recorded, cached, expected
):
    with scratch("decode", "a") as work:
        (work / "decode").write_text("x")
    md5, in_cache = (hashlib.md5(text.encode()).hexdigest() for text in (recorded, cached))
    (root / "cache" / in_cache[:2]).mkdir(parents=True)
    (root / "cache" / in_cache[:2] / in_cache[2:]).write_text(cached)
    monkeypatch.setattr("cace.system.scratch.dvc_cache", lambda: root / "cache")
    lock = {"stages": {"decode": {"outs": [{"path": "data/decode", "md5": md5, "size": 1}]}}}
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert start("decode", "a") == expected


def test_who_waits_for_another_run_says_so(root, capsys):
    with scratch("decode", "a"):
        waiting = threading.Thread(target=start, args=("decode", "a"))
        waiting.start()
        for _ in range(100):
            if "waiting for another run" in (printed := capsys.readouterr().err):
                break
            time.sleep(0.05)
    waiting.join()
    assert "/.work/decode/" in printed


def test_a_file_system_without_locks_is_named(monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(
        UserError, match=r"\.lock: this file system has no locks. Make .work a link"
    ):
        found("a")


def test_half_written_files_are_no_work():
    begin("a", leave=["shard", ".shard.123.tmp"])
    assert found("a") == ["shard"]


def make(folder, content):
    (folder / "AVE").mkdir(parents=True)
    (folder / "AVE/a.mp4").write_text(content)
    return folder


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in files_in(folder)}


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_folder_replaces_an_older_one(tmp_path):
    for content in ("old", "new"):
        publish(make(tmp_path / content, content), tmp_path / "out/clips")
    assert contents(tmp_path / "out") == {"clips/AVE/a.mp4": "new"}


def test_a_published_file_or_folder_stays_in_place_and_needs_no_room(tmp_path):
    for finished in (make(tmp_path / "work", "x"), tmp_path / "work/AVE/a.mp4"):
        publish(finished, tmp_path / "out")
        (out,) = [tmp_path / "out"] if finished.is_file() else files_in(tmp_path / "out")
        assert out.samefile(tmp_path / "work/AVE/a.mp4")
        shutil.rmtree(out.parent) if finished.is_dir() else out.unlink()
        publish(finished, tmp_path / "out")  # again
        tmp_path.joinpath("out").rename(tmp_path / f"out-of-{finished.name}")


@pytest.fixture
def other_disk(tmp_path):
    """A folder on another file system than `tmp_path`."""
    for place in ("/dev/shm", Path.home(), "/var/tmp"):
        if os.access(place, os.W_OK) and Path(place).stat().st_dev != tmp_path.stat().st_dev:
            with tempfile.TemporaryDirectory(dir=place) as folder:
                yield Path(folder)
                return
    pytest.skip("this machine has one file system")


def test_work_on_another_disk_is_published_as_a_copy(root, other_disk):
    (root / ".work").symlink_to(other_disk)
    for content in ("old", "new"):
        with scratch("decode", content) as work:
            publish(make(work / "clips", content), root / "data/clips")
    assert contents(root / "data") == {"clips/AVE/a.mp4": "new"}


def test_what_a_kill_left_of_publishing_is_replaced(tmp_path):
    make(tmp_path / ".clips.new", "half")
    make(tmp_path / ".clips.old", "older")
    publish(make(tmp_path / "work", "new"), tmp_path / "clips")
    assert sorted(path.name for path in tmp_path.glob("*clips*")) == ["clips"]
    assert contents(tmp_path / "clips") == {"AVE/a.mp4": "new"}


def test_a_folder_that_cannot_be_moved_away_stays_complete(tmp_path, monkeypatch):
    for place in ("work", "out/clips"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "shard").write_text(place)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError, match="out/clips'"):
        publish(tmp_path / "work", tmp_path / "out/clips")
    assert (tmp_path / "out/clips/shard").read_text() == "out/clips"


@pytest.mark.parametrize("content", ["stages: [1", "- a", "", "stages:", "stages:\nstages:\n"])
def test_a_damaged_dvc_yaml_is_one_message(root, content):
    (root / "dvc.yaml").write_text(content)
    with pytest.raises(UserError, match=r"^dvc\.yaml"), scratch("decode"):
        pass


def test_a_link_is_no_work(root):
    (root / ".work/decode").mkdir(parents=True)
    (root / ".work/decode/link").symlink_to("/")
    assert all_work() == []


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    write_atomically(folder / "a", "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(folder / "a", "new")
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("a", "old")]


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", "text")
    assert os.read(reader, 99) == b"text"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_a_number_that_json_lacks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_the_number_of_workers_is_checked(monkeypatch):
    monkeypatch.setenv("CACE_WORKERS", "two")
    with pytest.raises(UserError, match="CACE_WORKERS: expected a number of processes >= 1, got"):
        workers()


PARENT = """
import os, sys, time
from cace.system.workers import worker_processes
if __name__ == "__main__":
    with worker_processes(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 60).result()
"""


def test_workers_end_with_a_killed_parent(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True
    )
    worker = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while running(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(worker)


def two_then(what):
    """A generator for another process."""
    yield from (1, 2)
    if what == "hang":
        time.sleep(60)
    elif what == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "fail":
        raise UserError("no third")


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("end", None),
        ("hang", LostError("nothing within 5 s")),
        ("crash", LostError("crashed (exit code -9)")),
        ("fail", UserError("no third")),
    ],
)
def test_a_process_gives_its_items_and_says_how_it_ended(what, error):
    items = in_process(two_then, 5.0, what)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(type(error) if error else StopIteration) as caught:
        next(items)
    assert error is None or str(caught.value) == str(error)
    assert not multiprocessing.active_children()


def test_a_process_whose_items_nobody_wants_ends():
    items = in_process(two_then, 60.0, "hang")
    assert next(items) == 1
    items.close()
    assert not multiprocessing.active_children()


def running(process):
    """A process that nobody has asked for its exit status yet is ended all the same."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

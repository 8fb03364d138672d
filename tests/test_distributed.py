"""Engine ray, on a cluster of two nodes, gives the same bytes as the local engine."""

import os
import shutil
import sys
import threading
from functools import partial
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from torch import nn

from cace.data.annotations import Annotations, Row
from cace.encoders.audio import AudioEncoder, LogMelStatistics
from cace.encoders.visual import VisualEncoder
from cace.extraction.encode import extract_features
from cace.media.pool import decode_clips, media_files
from cace.media.store import ClipStore
from cace.system.cluster import on_cluster
from cace.system.errors import UserError
from cace.system.files import expect_file
from tests.videos import tone, write_video

HOW = {
    "fps": 2,
    "short_side": 64,
    "crop": 64,
    "jpeg_quality": 90,
    "backend": "pyav",
    "min_seconds": 9.0,
    "deadline_seconds": 60.0,
    "workers": 1,
}
NAMES = ("video.mp4", "html", "awaited", "hangs")
DATA = Annotations(("Bark",), tuple(Row(name, 0, 0, 1, "train") for name in NAMES))

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(
        sys.platform != "linux", reason="finds the processes that it kills under /proc"
    ),
]


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("CACE_WORKERS", "1")
    cluster = Cluster()
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    patch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()
    patch.undo()


@pytest.fixture
def media(tmp_path):
    """A video, a page, a pipe in the place of a video, and a pipe that nobody fills."""
    folder = tmp_path / "media"
    folder.mkdir()
    write_video(folder / "video.mp4", sound=tone())
    (folder / "html").write_text("<html>")
    for name in ("awaited", "hangs"):
        os.mkfifo(folder / name)
    files = pd.DataFrame({"id": NAMES, "file": NAMES})
    files.to_csv(folder / "manifest.csv", index=False)
    return folder


def is_open_in(path: Path, process: psutil.Process) -> bool:
    try:
        return any(fd.readlink() == path for fd in Path(f"/proc/{process.pid}/fd").iterdir())
    except OSError:  # it is gone, or its files are
        return False


def workers_of_the_cluster() -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if "MapWorker" in process.name()]


def same_files(ours: Path, theirs: Path) -> None:
    names = sorted(path.name for path in theirs.iterdir())
    assert sorted(path.name for path in ours.iterdir()) == names
    for name in names:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def test_decoding_survives_a_killed_worker_to_the_same_bytes(cluster, media, tmp_path, monkeypatch):
    monkeypatch.setattr("cace.media.pool.SHARD_CLIPS", 1)
    killed = []

    def kill_the_worker_that_waits():
        with (media / "awaited").open("wb"):  # returns once a decoder has opened the other end
            decoder = next(
                process
                for process in psutil.process_iter()
                if process.pid != os.getpid() and is_open_in(media / "awaited", process)
            )
            shutil.copy(media / "video.mp4", media / "video2")
            (media / "video2").replace(media / "awaited")
            killed.append(decoder.parent().name())
            decoder.parent().kill()

    killer = threading.Thread(target=kill_the_worker_that_waits)
    killer.start()
    how = HOW | {"deadline_seconds": 8.0}
    for engine in ("ray", "local"):
        (tmp_path / engine).mkdir()
        index = decode_clips(
            media_files(media, DATA), DATA, tmp_path / engine, **how, engine=engine
        )
        killer.join()
    assert "MapWorker" in killed[0]
    assert index["usable"].tolist() == [True, False, True, False]
    assert index["reason"][3] == "not decoded within 8 s"
    same_files(tmp_path / "ray", tmp_path / "local")


def test_encoding_survives_a_killed_worker_to_the_same_bytes(cluster, media, tmp_path, monkeypatch):
    monkeypatch.setattr("cace.media.pool.SHARD_CLIPS", 8)
    monkeypatch.setattr("cace.extraction.encode.JOURNAL_CLIPS", 1)
    names = [f"clip{k}" for k in range(40)]
    pd.DataFrame({"id": names, "file": "video.mp4"}).to_csv(media / "manifest.csv", index=False)
    data = Annotations(("Bark",), tuple(Row(name, 0, 0, 1, "train") for name in names))
    (tmp_path / "clips").mkdir()
    decode_clips(media_files(media, data), data, tmp_path / "clips", **HOW)
    killed = []

    def kill_a_worker_after_the_first(items, *_, **__):
        for item in items:
            yield item
            if not killed:
                killed.append(workers_of_the_cluster()[0])
                killed[0].kill()

    def extract(engine):
        (tmp_path / engine).mkdir()
        extract_features(
            ClipStore(tmp_path / "clips"),
            data,
            VisualEncoder(nn.AvgPool2d(32), 3, (0.5,) * 3, (0.5,) * 3),
            AudioEncoder(LogMelStatistics(), 128),
            tmp_path / engine / "features.h5",
            batch_size=7,
            precision="float32",
            device=torch.device("cpu"),
            provenance={},
            engine=engine,
        )
        return (tmp_path / engine / "features.h5").read_bytes()

    local = extract("local")
    monkeypatch.setattr("cace.extraction.encode.progress", kill_a_worker_after_the_first)
    assert extract("ray") == local
    assert killed and not killed[0].is_running()


def test_a_failure_that_the_user_can_fix_comes_back_as_itself(cluster, tmp_path):
    # A store without a file in it: the work fails on the cluster.
    with pytest.raises(UserError, match="^nowhere: not there; run `dvc repro decode`$"):
        list(on_cluster(partial(expect_file, made_by="decode"), [Path("nowhere")], tmp_path))


def test_a_machine_that_does_not_see_the_folder_is_named(cluster, tmp_path):
    with pytest.raises(UserError, match="elsewhere: not there on .*under this path"):
        list(on_cluster(list, [[]], tmp_path / "elsewhere"))


def test_a_cluster_of_too_small_machines_is_refused(cluster, tmp_path):
    with pytest.raises(UserError, match="expected a machine with 2 cores .* set CACE_WORKERS"):
        list(on_cluster(list, [[]], tmp_path, cores=2))


def test_without_ray_the_error_explains_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"run `pip install -e '.\[distributed\]'`, or set local"):
        list(on_cluster(list, [[]], tmp_path))


def test_a_cluster_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(UserError, match="expected a Ray cluster at 127.0.0.1:9, got: .*refused"):
        list(on_cluster(list, [[]], tmp_path))

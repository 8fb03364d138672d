"""HDF5 files that cannot be read: what is wrong is said, and nothing outside of them is read."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading

import h5py
import numpy as np
import pytest
from filelock import FileLock, Timeout

from cace import cli
from cace.conventions import SAMPLE_RATE, SEGMENTS
from cace.data.annotations import Annotations, Row, save_annotations
from cace.features.store import FeatureStore
from cace.media.store import ClipStore, to_jpeg
from cace.system import locks
from cace.system.errors import UserError
from cace.system.hdf5 import open_hdf5
from cace.system.locks import locked
from tests.stores import write_feature_store

HOLD = """
import fcntl, sys
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
print(flush=True)
input()
"""


@pytest.fixture
def path(tmp_path):
    return write_feature_store(tmp_path / "features.h5")


def test_a_store_that_another_process_locks_names_the_process_and_how_to_read_it_anyway(path):
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    held.stdout.readline()
    with pytest.raises(SystemExit) as caught:
        cli.main(["evaluate", "--features", str(path), "--checkpoint", "a.pt"])
    held.communicate(b"\n")
    message = str(caught.value)
    assert message.startswith(f"error: {path}: in use by process {held.pid} ({sys.executable} -c ")
    assert "run the same command again when that has ended" in message
    assert "set HDF5_USE_FILE_LOCKING=FALSE to read it now" in message
    assert "extract" not in message
    FeatureStore(path)


def test_a_store_to_write_that_is_locked_is_not_offered_for_reading(path):
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="in use by process .* when that has ended$"):
            open_hdf5(path, "", "r+")


def test_where_the_system_does_not_tell_who_it_is_the_user_is_told_how_to_find_out(
    path, monkeypatch
):
    monkeypatch.setattr(locks.Path, "read_text", lambda *_, **__: "")
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=rf"another process \(`lsof {path}` shows which\)"):
            FeatureStore(path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_as_such(path, monkeypatch, number):
    def refuse(*_):
        # As HDF5 reports it on such a file system.
        raise OSError(
            number,
            f"Unable to synchronously open file (unable to lock file, errno = {number}, ...)",
        )

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(UserError) as caught:
        FeatureStore(path)
    assert str(caught.value) == (
        f"{path}: this file system has no locks ({os.strerror(number)}); set "
        f"HDF5_USE_FILE_LOCKING=FALSE and run the same command again"
    )


def test_a_disk_that_fails_is_not_taken_for_a_damaged_file(path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Unable to synchronously open file (file read failed: ...)")

    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(UserError, match=r"h5: cannot be read \(Input/output error, error 5\)$"):
        FeatureStore(path)


def test_a_store_cut_short_anywhere_is_refused_as_such(path):
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(
        UserError,
        match=rf"features.h5: cut short, {size - 1} of {size} bytes; run `dvc repro extract`$",
    ):
        FeatureStore(path)
    for length in (size // 2, 1000, 100, 8, 0):
        os.truncate(path, length)
        with pytest.raises(UserError, match=r"h5: (cut short|not an HDF5 file|damaged \()"):
            FeatureStore(path)


def test_a_folder_or_a_pipe_in_the_place_of_a_store_is_named(tmp_path):
    with pytest.raises(UserError, match="expected an HDF5 file, got a folder"):
        FeatureStore(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="expected an HDF5 file, got something else"):
        FeatureStore(tmp_path / "pipe")


def test_random_damage_of_the_structure_ends_in_one_sentence_or_in_the_same_store(path):
    """The first 4 kB: what describes the file; damage of the features themselves does not tell."""
    rng, good = np.random.default_rng(0), path.read_bytes()
    for _ in range(150):
        damaged = bytearray(good)
        for place in rng.integers(8, 4096, size=rng.integers(1, 30)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            FeatureStore(path)
        except UserError as error:
            assert str(error).startswith(str(path))


# --- shards of decoded clips


@pytest.fixture
def clips(tmp_path):
    """A store of one shard with one clip: what is read of it."""
    jpeg = to_jpeg(np.zeros((32, 32, 3), np.uint8), 90)
    with h5py.File(tmp_path / "shard-00000.h5", "w") as file:
        file["frame"] = np.frombuffer(jpeg * 10, np.uint8)
        file["frame_offset"] = np.arange(11)[None] * len(jpeg)
        file["sound"] = np.zeros((1, SEGMENTS * SAMPLE_RATE), np.int16)
    (tmp_path / "clips.csv").write_text("id,shard,row,usable,reason\na,shard-00000.h5,0,True,\n")
    (tmp_path / "store.json").write_text('{"fps": 1, "crop": 32}')
    return tmp_path


def test_a_shard_cut_short_is_refused_as_such_where_a_clip_is_read(clips):
    shard = clips / "shard-00000.h5"
    os.truncate(shard, 3000)
    for read in (ClipStore.frames, ClipStore.sound):
        with pytest.raises(
            UserError, match=r"shard-00000.h5: cut short, 3000 of \d+ bytes; run `dvc repro decode`"
        ):
            read(ClipStore(clips), "a")


def test_a_damaged_frame_is_named_with_its_shard(clips):
    shard = clips / "shard-00000.h5"
    with h5py.File(shard, "r+") as file:
        file["frame"][:100] = 0
    with pytest.raises(UserError, match=r"shard-00000.h5: damaged \(.*; run `dvc repro decode`"):
        ClipStore(clips).frames("a")


def test_a_locked_shard_is_reported_by_inspect_without_a_traceback(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(cli.paths, "CLIPS", clips)
    data = Annotations(("Bark",), (Row("a", 0, 0, 5, "test"),))
    save_annotations(clips / "annotations.json", data)
    with (clips / "shard-00000.h5").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SystemExit, match=rf"in use by process {os.getpid()} \(") as caught:
            cli.main(["inspect", "a", "--out", str(tmp_path / "out")])
    assert "set HDF5_USE_FILE_LOCKING=FALSE" in str(caught.value)


# --- waiting


def test_who_waits_for_a_lock_says_for_what(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    file = tmp_path / "a.lock"
    held = file.open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    threading.Timer(0.3, held.close).start()
    with locked(file, "the download of a.h5"):
        message = capsys.readouterr().err
    assert message.startswith(f"waiting for the download of a.h5: process {os.getpid()} (")
    assert message.endswith(f") locks {file}\n")


def test_a_lock_that_is_free_is_taken_silently_and_returned(tmp_path, capsys):
    for _ in range(2):
        with locked(tmp_path / "a.lock", "anything"), pytest.raises(Timeout):
            FileLock(tmp_path / "a.lock").acquire(timeout=0)
    assert capsys.readouterr().err == ""


# --- data of other files


def elsewhere(kind, name, file, secret):
    """Puts data of the file `secret` into the place of a dataset."""
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    if kind == "external link":
        file[name] = h5py.ExternalLink(str(secret), name)
    elif kind == "soft link through an external one":
        file["there"] = h5py.ExternalLink(str(secret), "/")
        file[name] = h5py.SoftLink(f"/there/{name}")
    elif kind == "soft link":
        file[f"{name}2"] = h5py.ExternalLink(str(secret), name)
        file[name] = h5py.SoftLink(f"/{name}2")
    elif kind == "external storage":
        file.create_dataset(name, shape, dtype, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
    else:
        layout = h5py.VirtualLayout(shape, dtype)
        layout[:] = h5py.VirtualSource(str(secret), name, shape)
        file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize(
    "kind",
    [
        *("external link", "soft link", "soft link through an external one"),
        *("external storage", "virtual dataset"),
    ],
)
@pytest.mark.parametrize("name", ["visual", "audio", "labels"])
def test_a_store_with_data_of_other_files_is_refused(path, tmp_path, kind, name):
    secret = shutil.copy(path, tmp_path / "secret.h5")
    with h5py.File(path, "r+") as file:
        elsewhere(kind, name, file, secret)
    with pytest.raises(
        UserError, match=f"{name}: expected data in the file itself, got (a link|data)"
    ):
        FeatureStore(path)


def test_texts_of_other_files_are_refused_as_well(path, tmp_path):
    secret = shutil.copy(path, tmp_path / "secret.h5")
    for name in ("id", "split", "categories"):
        with h5py.File(path, "r+") as file:
            elsewhere("external link", name, file, secret)
        with pytest.raises(
            UserError, match=f"{name}: expected data in the file itself, got a link"
        ):
            FeatureStore(path)
        shutil.copy(secret, path)


# --- strange contents


def replaced(path, name, **created):
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_dataset(name, **created)


LARGE = {"shape": (24, 10, 2, 2, 10**7), "dtype": "f2"}  # of which nothing is written


@pytest.mark.parametrize(
    ("name", "created", "says"),
    [
        ("visual", LARGE, "visual: expected 19,200,000,000 bytes, and the file has"),
        ("visual", {**LARGE, "chunks": (1, 1, 1, 1, 999)}, "visual: expected 19,200,000,000 bytes"),
        ("visual", {"data": np.zeros((24, 10, 2, 2, 4), "i2")}, "visual: expected float16 or"),
        (
            "audio",
            {"data": np.zeros((24, 10, 4), ">f4")},
            "audio: expected float16 or",
        ),
        ("audio", {"data": np.zeros((24, 10, 4), "c8")}, "audio: expected float16 or"),
        ("labels", {"data": np.full((24, 10), 4)}, "labels: expected numbers from 0 to 3, got oth"),
        ("labels", {"data": np.full((24, 10), -1)}, "labels: expected numbers from 0 to 3, got o"),
        (
            "labels",
            {"data": np.zeros((24, 10), "f4")},
            "labels: expected int64 or int32",
        ),
        ("id", {"data": np.arange(24)}, "id: expected text, got int64"),
        ("id", {"data": [b"caf\xe9"] * 24}, r"features.h5: damaged \(.*can't decode byte 0xe9"),
        ("categories", {"data": ["a", "b\x1b[2J", "c"]}, "categories: expected printable names"),
        ("categories", {"data": ["a", "a", "c"]}, "categories: expected printable names, each on"),
    ],
)
def test_a_strange_content_is_refused(path, name, created, says):
    replaced(path, name, **created)
    with pytest.raises(UserError, match=says):
        FeatureStore(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": ' + "9" * 5000 + "}", "[" * 9999])
def test_a_provenance_that_is_none_is_refused(path, text):
    with h5py.File(path, "r+") as file:
        file.attrs["provenance"] = text
    with pytest.raises(UserError, match=r"features.h5: damaged \(.*; run `dvc repro extract`"):
        FeatureStore(path)


def test_a_store_without_provenance_is_refused(path):
    with h5py.File(path, "r+") as file:
        del file.attrs["provenance"]
    with pytest.raises(UserError, match=r"features.h5: damaged \(.*; run `dvc repro extract`"):
        FeatureStore(path)

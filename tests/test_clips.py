import json
import multiprocessing
import os
import re
import shutil
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import psutil
import pytest

from cace.data.annotations import Annotations, Row, load_annotations
from cace.data.manifest import read_manifest
from cace.media.pool import SHARD_CLIPS, decode_clips, decode_media, media_files
from cace.media.store import ClipStore
from cace.system.errors import UserError
from tests.kinds import KINDS
from tests.videos import read_counter, tone, write_video
from tests.workspaces import make_workspace, work_of

HOW = {
    "fps": 4,
    "short_side": 96,
    "crop": 96,
    "jpeg_quality": 90,
    "backend": "pyav",
    "min_seconds": 9.0,
    "deadline_seconds": 60.0,
}
ROWS = (Row("good", 0, 2, 9, "train"), Row("lost", 0, 0, 4, "val"), Row("html", 1, 0, 9, "test"))
ANNOTATIONS = Annotations(("Bark", "Flute"), ROWS)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    (folder / "AVE").mkdir()
    write_video(folder / "AVE/good.mp4", sound=tone())
    (folder / "AVE/html.mp4").write_text("<html>")
    files = pd.DataFrame({"id": ["good", "html"], "file": ["AVE/good.mp4", "AVE/html.mp4"]})
    files.to_csv(folder / "manifest.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def store(media, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    decode_clips(media_files(media, ANNOTATIONS), ANNOTATIONS, folder, **HOW, workers=1)
    return ClipStore(folder)


def test_frames_come_back_in_any_order(store):
    frames = store.frames("good", [39, 0, 20])
    # Frame k of 4 a second is frame floor(25 k / 4) of the file.
    assert [read_counter(frame, 128, 96) for frame in frames] == [243, 0, 125]


def test_sound_comes_back_by_segment_to_the_last_bit(store):
    sound = store.sound("good")
    assert sound.shape == (10, 32_000)
    assert np.abs(sound).max() == pytest.approx(0.5, abs=0.02)


def test_a_bad_clip_is_listed_with_its_reason_and_the_run_continues(store):
    assert store.index["usable"].to_dict() == {"good": True, "lost": False, "html": False}
    assert store.index.at["lost", "reason"] == "no such file"
    assert store.index.at["html", "reason"].startswith("not decodable")


def test_reading_a_bad_clip_gives_the_reason(store):
    with pytest.raises(UserError, match="clip lost: not usable: no such file"):
        store.frames("lost")


def test_annotations_travel_with_the_store(store):
    assert load_annotations(store.folder / "annotations.json") == ANNOTATIONS


def test_decoding_twice_gives_the_same_bytes(media, store, tmp_path):
    decode_clips(media_files(media, ANNOTATIONS), ANNOTATIONS, tmp_path, **HOW, workers=2)
    for file in store.folder.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


def decode_to_a_store(media, folder, **changes):
    options = {**HOW, "max_bad_fraction": 1.0, "workers": 1, "engine": "local"} | changes
    decode_media(media, folder / "clips", folder / "decode.json", categories=None, **options)


@pytest.fixture
def annotated(media, tmp_path, monkeypatch):
    """A media folder as `download` leaves it, with the rows in a text file."""
    make_workspace(tmp_path, monkeypatch)
    shutil.copytree(media, tmp_path / "media")
    rows = "".join(f"Bark&{name}&good&0&5\n" for name in ("good", "lost", "html"))
    (tmp_path / "media/Annotations.txt").write_text(rows)
    return tmp_path / "media"


def test_half_done_work_is_found_again_whatever_the_engine_and_not_for_other_settings(
    annotated, tmp_path, monkeypatch
):
    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("cace.media.pool.decode_clips", killed)
    changes = {}, {"engine": "ray"}, {"workers": 2}, {"max_bad_fraction": 0.5}, {"fps": 2}
    for change, count in zip(changes, (1, 1, 1, 1, 2), strict=True):
        with pytest.raises(KeyboardInterrupt):
            decode_to_a_store(annotated, tmp_path, **change)
        assert len(work_of(tmp_path, "decode")) == count


def test_clips_are_counted_by_what_became_of_them(annotated, tmp_path):
    decode_to_a_store(annotated, tmp_path)
    counts = json.loads((tmp_path / "decode.json").read_text())["decode"]
    assert counts == {"clips": 3, "used": 1, "refused": 2, "padded": 0}
    assert ClipStore(tmp_path / "clips").usable("good")


def test_remarks_are_printed_and_listed_with_the_clip(annotated, tmp_path, capsys):
    write_video(annotated / "AVE/good.mp4", sound=0 * tone())
    decode_to_a_store(annotated, tmp_path)
    assert "1 of 3 clips:\n  good: the sound is digitally silent" in capsys.readouterr().out
    index = ClipStore(tmp_path / "clips").index
    assert index.at["good", "remarks"] == "the sound is digitally silent"
    assert index.at["good", "sound"] == "48000 Hz, stereo"


@pytest.fixture
def stuck(media, tmp_path):
    """Three clips, the second of them a named pipe: opening it waits for a writer."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes on this platform")
    names = ["first", "stuck", "last"]
    for name in ("first", "last"):
        (tmp_path / name).symlink_to(media / "AVE/good.mp4")
    os.mkfifo(tmp_path / "stuck")
    pd.DataFrame({"id": names, "file": names}).to_csv(tmp_path / "manifest.csv", index=False)
    data = Annotations(("Bark",), tuple(Row(name, 0, 0, 1, "train") for name in names))
    return media_files(tmp_path, data), data


def test_a_clip_that_hangs_is_refused_at_its_deadline_and_the_run_continues(stuck, tmp_path):
    index = decode_clips(*stuck, tmp_path, **{**HOW, "deadline_seconds": 6.0}, workers=1)
    assert index["usable"].tolist() == [True, False, True]
    assert index["reason"][1] == "not decoded within 6 s"


def test_a_clip_that_crashes_its_process_is_the_only_one_refused(stuck, tmp_path):
    def kill_the_reader():
        with (tmp_path / "stuck").open("wb"):  # returns once the decoder has opened the other end
            for worker in multiprocessing.active_children():
                worker.kill()

    killer = threading.Thread(target=kill_the_reader)
    killer.start()
    index = decode_clips(*stuck, tmp_path, **HOW, workers=1)
    killer.join()
    assert index["usable"].tolist() == [True, False, True]
    assert index["reason"][1] == "the decoder crashed (exit code -9)"


# A worker starts with it: imports are slow, as on a busy machine, and Pebble has less patience.
SLOW_IMPORTS = """
import sys, time
from pebble.common import CONSTS
CONSTS.channel_lock_timeout = 0.2

class Slow:
    def find_spec(self, name, *_):
        time.sleep(2.0 * (name == "cace.media.pool"))

sys.meta_path.insert(0, Slow())
"""


def test_workers_that_import_slowly_decode_all_the_same(media, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(SLOW_IMPORTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    index = decode_clips(media_files(media, ANNOTATIONS), ANNOTATIONS, tmp_path, **HOW, workers=2)
    assert index["usable"].tolist() == [True, False, False]


def test_a_run_that_fails_does_not_wait_for_the_clips_on_their_way(stuck, tmp_path, monkeypatch):
    monkeypatch.setattr("cace.media.pool.SHARD_CLIPS", 1)
    monkeypatch.setattr("cace.media.pool.write_shard", lambda *_: 1 / 0)
    started = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        decode_clips(*stuck, tmp_path, **HOW, workers=1)
    assert not multiprocessing.active_children()
    assert time.monotonic() - started < HOW["deadline_seconds"] / 2


def test_a_clip_that_lacks_a_tenth_of_a_second_is_flagged_as_padded(tmp_path):
    write_video(tmp_path / "whole.mp4", frames=249, sound=tone())  # a frame less is not padding
    write_video(tmp_path / "short.mp4", frames=240, sound=tone())
    write_video(tmp_path / "refused.mp4", frames=200, sound=tone())
    names = ["whole", "short", "refused"]
    files = pd.DataFrame({"id": names, "file": [f"{name}.mp4" for name in names]})
    files.to_csv(tmp_path / "manifest.csv", index=False)
    data = Annotations(("Bark",), tuple(Row(name, 0, 0, 1, "train") for name in names))
    index = decode_clips(media_files(tmp_path, data), data, tmp_path, **HOW, workers=1)
    assert index["padded"].tolist() == [False, True, False]
    assert index["picture_seconds"].tolist() == [9.96, 9.6, 0]


@pytest.mark.slow
def test_every_kind_of_clip_is_accounted_for(tmp_path):
    for kind in KINDS:
        kind.make(tmp_path / kind.file)
    names = [kind.file for kind in KINDS]
    pd.DataFrame({"id": names, "file": names}).to_csv(tmp_path / "manifest.csv", index=False)
    data = Annotations(("Bark",), tuple(Row(name, 0, 0, 1, "train") for name in names))
    index = decode_clips(media_files(tmp_path, data), data, tmp_path, **HOW, workers=2)
    assert index["id"].tolist() == names
    for kind, clip in zip(KINDS, index.itertuples(), strict=True):
        assert clip.usable == (kind.result in ("used", "padded")), clip
        assert clip.padded == (kind.result == "padded"), clip
        assert clip.usable or re.search(kind.result, clip.reason), clip


def test_finished_shards_are_kept_and_the_missing_one_is_made(media, tmp_path):
    rows = tuple(Row(f"none{k}", 0, 0, 1, "train") for k in range(SHARD_CLIPS)) + ROWS
    data = Annotations(ANNOTATIONS.categories, rows)
    decode_clips(media_files(media, data), data, tmp_path, **HOW, workers=1)
    kept = (tmp_path / "shard-00000.h5").stat()
    (tmp_path / "shard-00001.h5").unlink()
    decode_clips(media_files(media, data), data, tmp_path, **HOW, workers=1)
    assert (tmp_path / "shard-00000.h5").stat().st_ino == kept.st_ino
    with h5py.File(tmp_path / "shard-00001.h5") as file:
        assert file["usable"][:].tolist() == [True, False, False]


def test_no_more_shards_are_open_than_a_system_allows(media, tmp_path, monkeypatch):
    monkeypatch.setattr("cace.media.pool.SHARD_CLIPS", 1)
    monkeypatch.setattr("cace.media.store.OPEN_SHARDS", 2)
    file = media_files(media, ANNOTATIONS)[0]
    names = [f"copy{k}" for k in range(4)]
    data = Annotations(("Bark",), tuple(Row(name, 0, 0, 1, "train") for name in names))
    decode_clips([file._replace(id=n) for n in names], data, tmp_path, **HOW, workers=2)
    store = ClipStore(tmp_path)
    first = store.frames("copy0")
    for name in (*names, *names):
        assert np.array_equal(store.frames(name), first)
    opened = [Path(file.path).parent for file in psutil.Process().open_files()]
    assert opened.count(tmp_path) == 2


def test_a_media_folder_without_its_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"manifest.csv: not there; run `dvc repro download`"):
        media_files(tmp_path, ANNOTATIONS)


def test_a_store_of_labels_alone_is_refused(tmp_path):
    (tmp_path / "labels.npy").touch()
    with pytest.raises(
        UserError, match="expected decoded clips, got only labels; source released has no clips"
    ):
        ClipStore(tmp_path)


def test_a_missing_store_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"store.json: not there; run `dvc repro decode`"):
        ClipStore(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"a,b\n1,2\n", b"\xff"])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("store.json", lambda path: ClipStore(path.parent)),
        ("clips.csv", lambda path: ClipStore(path.parent)),
        ("annotations.json", load_annotations),
        ("manifest.csv", lambda path: read_manifest(path.parent)),
    ],
)
def test_a_damaged_file_of_a_stage_is_one_message(tmp_path, name, read, content):
    (tmp_path / "store.json").write_text('{"fps": 2}')
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: (damaged .*run `dvc repro|expected UTF-8)"):
        read(tmp_path / name)

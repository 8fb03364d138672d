"""The rendered set: real media, true labels, and files that depend on nothing else."""

import csv
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest

from cace.conventions import SPLITS
from cace.data.annotations import AVE_CATEGORIES, read_annotations
from cace.data.sources import mini
from cace.media.pool import MediaFile, decode_clips

TINY = {"seed": 3, "width": 32, "height": 32, "fps": 2}
CLIPS = 36  # three of each category: one for each split


class Second(NamedTuple):
    visible: bool
    audible: bool
    event: bool
    kind: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("mini")
    mini.render(path, clips=CLIPS, **TINY)
    return path


@pytest.fixture(scope="module")
def truth(folder):
    """The seconds of each clip, in order."""
    clips: dict[str, list[Second]] = {}
    with (folder / "truth.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            flags = (row[name] == "1" for name in ("Visible", "Audible", "Event"))
            clips.setdefault(row["VideoID"], []).append(Second(*flags, row["Kind"]))
    return clips


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def loudness(path: Path) -> np.ndarray:
    """Root mean square of each second of the decoded sound."""
    with av.open(str(path)) as file:
        wave = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
    return np.sqrt(np.mean(wave.reshape(10, 32_000).astype(float) ** 2, axis=1))


def test_two_workers_write_the_same_bytes_as_one(tmp_path):
    mini.render(tmp_path / "one", clips=5, **TINY)
    mini.render(tmp_path / "two", clips=5, **TINY, workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


# Renders and decodes without FFmpeg's code for newer processors. It is switched off outside of the
# __main__ block, so the processes that decode do it too.
PLAIN_FFMPEG = """
import ctypes
import sys
from pathlib import Path

import av

(library,) = Path(av.__file__).parents[1].glob("av.libs/libavutil*")  # as PyAV's wheels have it
avutil = ctypes.CDLL(str(library))
avutil.av_force_cpu_flags(0)
assert avutil.av_get_cpu_flags() == 0

if __name__ == "__main__":
    from tests.test_mini import render_and_decode

    render_and_decode(Path(sys.argv[1]))
"""


def render_and_decode(folder: Path) -> None:
    """One clip of each category, the shards that the stage decode writes, and the sounds alone."""
    mini.render(folder / "media", clips=len(mini.CATEGORIES), seed=3, width=64, height=48, fps=2)
    annotations = read_annotations(folder / "media")
    decode_clips(
        [MediaFile(id_, folder / "media" / "AVE" / f"{id_}.mp4") for id_ in annotations.ids],
        annotations,
        folder / "clips",
        fps=2,
        short_side=36,
        crop=32,
        jpeg_quality=90,
        backend="pyav",
        min_seconds=9.0,
        deadline_seconds=120.0,
        workers=1,
    )
    # Not yet rounded: a last digit that differs would show in a file only now and then.
    sounds = [category.sound(np.random.default_rng(0)) for category in mini.CATEGORIES]
    np.save(folder / "sounds.npy", sounds)


def plainest_processor() -> dict[str, str]:
    """Environment variables: NumPy, libjpeg and the C library use no newer instructions either."""
    from numpy._core import _multiarray_umath as numpy_build

    features = numpy_build.__cpu_features__
    optional = [name for name in numpy_build.__cpu_dispatch__ if features.get(name)]
    return {
        "NPY_DISABLE_CPU_FEATURES": " ".join(optional),
        "JSIMD_FORCENONE": "1",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F,-AVX512VL",
    }


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not [*Path(av.__file__).parents[1].glob("av.libs")],
    reason="the switches are those of x86-64 and of PyAV's wheels for Linux",
)
def test_media_and_shards_are_the_same_on_another_processor(tmp_path):
    render_and_decode(tmp_path / "here")
    program = tmp_path / "plain_ffmpeg.py"
    program.write_text(PLAIN_FFMPEG)
    command = [sys.executable, program, tmp_path / "there"]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        command, env={**os.environ, **plainest_processor(), "PYTHONPATH": paths}, check=True
    )
    here, there = content(tmp_path / "here"), content(tmp_path / "there")
    assert here.keys() == there.keys()
    assert [name for name in here if here[name] != there[name]] == []


def test_a_larger_set_contains_the_clips_of_a_smaller_one(folder, tmp_path):
    mini.render(tmp_path, clips=4, **TINY)
    assert content(tmp_path / "AVE").items() <= content(folder / "AVE").items()


@pytest.mark.parametrize("changed", [{"seed": 4}, {"width": 34}, {"fps": 3}])
def test_other_settings_share_no_clip_name(folder, tmp_path, changed):
    mini.render(tmp_path, clips=2, **{**TINY, **changed})
    assert not content(tmp_path / "AVE").keys() & content(folder / "AVE").keys()


def test_a_second_run_restores_what_is_missing_and_leaves_the_rest(tmp_path):
    mini.render(tmp_path, clips=3, **TINY)
    before = content(tmp_path)
    lost, kept, _ = sorted((tmp_path / "AVE").iterdir())
    lost.unlink()
    written = kept.stat().st_mtime_ns
    mini.render(tmp_path, clips=3, **TINY)
    assert content(tmp_path) == before
    assert kept.stat().st_mtime_ns == written


def test_the_half_written_clip_of_an_interrupted_run_is_replaced(tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            mini.render(tmp_path, clips=1, **TINY)
    (leftover,) = (tmp_path / "AVE").iterdir()
    assert leftover.suffix != ".mp4"
    mini.render(tmp_path, clips=1, **TINY)
    assert len(list((tmp_path / "AVE").glob("*.mp4"))) == 1


def test_the_folder_reads_as_annotations_with_every_category_in_every_split(folder):
    rows = read_annotations(folder, AVE_CATEGORIES).rows
    names = {category.name for category in mini.CATEGORIES}
    for split in SPLITS:
        assert {AVE_CATEGORIES[row.category] for row in rows if row.split == split} == names


def test_every_annotated_clip_has_its_file_and_no_other_is_there(folder):
    ids = read_annotations(folder).ids
    assert len(ids) == CLIPS
    assert {f"{id_}.mp4" for id_ in ids} == {path.name for path in (folder / "AVE").iterdir()}


def test_ids_look_as_in_ave(folder):
    ids = read_annotations(folder).ids
    assert {len(id_) for id_ in ids} == {11}
    assert {id_[0] for id_ in ids} >= {"-", "_"}


def test_three_of_five_clips_are_for_training(tmp_path):
    clips = 5 * len(mini.CATEGORIES)
    cast = [mini._clip(number, 0, mini._Frames(32, 32, 2)) for number in range(clips)]
    shares = [sum(clip.split == split for clip in cast) / clips for split in SPLITS]
    assert shares == pytest.approx([0.6, 0.2, 0.2])


def test_the_event_is_one_run_from_start_to_end(folder, truth):
    for row in read_annotations(folder).rows:
        events = [second for second, s in enumerate(truth[row.id]) if s.event]
        assert events == list(range(row.start, row.end))
        assert 2 <= len(events) <= 10


def test_an_event_is_what_is_both_visible_and_audible(truth):
    seconds = [second for clip in truth.values() for second in clip]
    assert all(s.event == (s.visible and s.audible) == (s.kind == "event") for s in seconds)


def test_all_kinds_of_background_occur(truth):
    seconds = {second for clip in truth.values() for second in clip if not second.event}
    assert {s.kind for s in seconds} == {"none", "seen", "heard", "contradicted"}
    # A contradiction comes from either side.
    assert {s.visible for s in seconds if s.kind == "contradicted"} == {True, False}


def test_a_clip_is_ten_seconds_of_h264_and_flac(folder):
    for path in (folder / "AVE").iterdir():
        with av.open(str(path)) as file:
            assert [s.codec_context.name for s in file.streams] == ["h264", "flac"]
            assert file.duration == 10_000_000  # microseconds
            assert sum(1 for _ in file.decode(video=0)) == 20


def test_a_silent_second_is_quieter_than_the_event_of_its_clip(folder, truth):
    for id_, seconds in truth.items():
        levels = loudness(folder / "AVE" / f"{id_}.mp4")
        silent = [s.kind in ("none", "seen") for s in seconds]
        event = [s.event for s in seconds]
        if any(silent):
            assert levels[silent].max() < levels[event].min(), id_


def test_fades_are_within_the_sound_so_that_silence_is_silent():
    gate = mini._gate([False, True, True, False, True, False])
    assert gate.reshape(6, -1).any(axis=1).tolist() == [False, True, True, False, True, False]
    assert np.abs(np.diff(gate)).max() < 0.01


def test_the_object_leaves_the_picture_with_the_second():
    def frames(seen):
        plan = mini._Plan(0, 0, 10, ("event",) * 10, seen, (0,) * 10)
        return mini._picture(np.random.default_rng(0), plan, width=32, height=32, fps=2)

    stays, leaves = frames((0,) * 10), frames((0,) * 5 + (None,) * 5)
    assert (stays != leaves).any(axis=(1, 2, 3)).tolist() == [False] * 10 + [True] * 10


def test_importing_it_in_a_worker_loads_no_torch():
    program = "import cace.data.sources.mini, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

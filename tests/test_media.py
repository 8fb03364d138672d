import gc
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from cace.conventions import SAMPLE_RATE
from cace.media.decode import SCALING, decode_clip
from cace.media.tracks import UnusableClipError
from tests.kinds import KINDS, Kind, at_rate
from tests.videos import offset_and_level, read_counter, sweep, tone, write_video

SIZE = (128, 96)


def decode(path, fps=16, **options):
    return decode_clip(path, seconds=10, fps=fps, short_side=96, crop=96, **options)


def counters(clip, size=SIZE):
    return [read_counter(frame, *size) for frame in clip.frames]


@pytest.mark.parametrize("fps", [15, 25, Fraction(30_000, 1001), 60])
def test_frame_k_is_the_last_one_shown_by_then(tmp_path, fps):
    path = write_video(tmp_path / "a.mp4", frames=int(10 * fps), fps=fps, sound=tone())
    expected = [int(Fraction(k, 16) * fps + Fraction(1, 1000)) for k in range(160)]
    assert counters(decode(path)) == expected


def test_variable_frame_rate_follows_the_timestamps(tmp_path):
    rng = np.random.default_rng(0)
    times = np.sort(rng.choice(np.arange(1, 500) / 50, 120, replace=False))
    times[0] = 0
    path = write_video(tmp_path / "a.mp4", frames=120, times=times, sound=tone())
    expected = [int(np.sum(times <= k / 16 + 1e-6)) - 1 for k in range(160)]
    assert counters(decode(path)) == expected


def test_decord_picks_the_same_frames(tmp_path):
    pytest.importorskip("decord", reason="no decord for this platform")
    path = write_video(tmp_path / "a.mp4", frames=300, fps=30, sound=tone())
    assert counters(decode(path, backend="decord")) == counters(decode(path))


def test_a_late_picture_and_an_early_end_repeat_the_nearest_frame(tmp_path):
    times = 0.2 + np.arange(230) / 25
    path = write_video(tmp_path / "a.mp4", frames=230, times=times, sound=tone())
    shown = counters(decode(path))
    assert shown[:4] == [0, 0, 0, 0]
    assert shown[-8:] == [229] * 8


@pytest.mark.parametrize(("channels", "rate"), [(1, 22_050), (2, 44_100), (6, 48_000)])
def test_sound_is_the_mean_of_its_channels_at_32_khz(tmp_path, channels, rate):
    wave = tone(rate=rate, channels=channels)
    wave[1:] *= 0.5  # or channels could be confused with their mean
    wave[3:4] = 0  # the low-frequency channel of 5.1 cannot carry 440 Hz
    path = write_video(tmp_path / "a.mp4", sound=wave, rate=rate)
    sound = decode(path).sound
    assert sound.shape == (10 * SAMPLE_RATE,)
    ideal = tone(rate=SAMPLE_RATE, channels=1)[0] * wave.std(axis=1).mean() / wave[0].std()
    middle = slice(SAMPLE_RATE, 9 * SAMPLE_RATE)
    # Level and place at once: a sample late is 5 degrees of a 440 Hz wave.
    assert np.abs(sound[middle] - ideal[middle]).max() < 0.03


def test_delayed_sound_starts_late(tmp_path):
    path = write_video(tmp_path / "a.mp4", sound=tone(9.5), sound_start=0.25)
    sound = np.abs(decode(path).sound)
    assert sound[: int(0.22 * SAMPLE_RATE)].max() < 0.01
    assert sound[int(0.26 * SAMPLE_RATE) : int(0.3 * SAMPLE_RATE)].max() > 0.4


def test_short_sound_is_followed_by_silence(tmp_path):
    clip = decode(write_video(tmp_path / "a.mp4", sound=tone(9.2)))
    assert clip.sound_seconds == pytest.approx(9.2, abs=0.05)
    assert np.abs(clip.sound[int(9.4 * SAMPLE_RATE) :]).max() == 0


def without_sound_between(start, end, source, target):
    """Copies a file without the packets of sound that begin in there."""
    with av.open(str(source)) as whole, av.open(str(target), "w") as copy:
        streams = {s.index: copy.add_stream_from_template(s) for s in whole.streams}
        for packet in whole.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "audio" and start <= packet.pts * packet.time_base < end:
                continue
            packet.stream = streams[packet.stream.index]
            copy.mux(packet)
    return target


@pytest.mark.parametrize(("ending", "codec"), [("mp4", "aac"), ("mkv", "flac")])
def test_a_gap_in_the_sound_is_silent_and_what_follows_keeps_its_time(tmp_path, ending, codec):
    whole = write_video(tmp_path / f"whole.{ending}", sound=sweep(), sound_codec=codec)
    clip = decode(without_sound_between(4.0, 4.5, whole, tmp_path / f"gap.{ending}"))
    source = sweep(10, SAMPLE_RATE, channels=1)[0]
    assert clip.sound_seconds == pytest.approx(9.5, abs=0.05)
    # A packet of FLAC lasts 0.1 s, and one of AAC sounds on into the next.
    before, gap, after = (
        slice(int(begin * SAMPLE_RATE), int(end * SAMPLE_RATE))
        for begin, end in ((0, 3.9), (4.15, 4.45), (4.65, 9.9))
    )
    assert np.abs(clip.sound[gap]).max() < 0.001
    for part in (before, after):
        late, level = offset_and_level(clip.sound[part], source[part])
        assert abs(late) <= SAMPLE_RATE / 1000
        assert level == pytest.approx(1, abs=0.01)


def test_times_that_the_file_rounds_to_a_millisecond_tear_no_gaps(tmp_path):
    wave = sweep(rate=44_100)  # 4096 samples a packet: no whole milliseconds
    path = write_video(tmp_path / "a.mkv", sound=wave, rate=44_100, sound_codec="flac")
    clip, source = decode(path), sweep(10, SAMPLE_RATE, channels=1)[0]
    assert clip.sound_seconds == 10
    middle = slice(SAMPLE_RATE, 9 * SAMPLE_RATE)
    assert np.abs(clip.sound[middle] - source[middle]).max() < 0.01


def test_a_portrait_clip_is_cropped_to_its_middle(tmp_path):
    path = write_video(tmp_path / "a.mp4", size=(96, 128), sound=tone())
    assert counters(decode(path), (96, 128))[:20] == [int(k * 25 / 16) for k in range(20)]


def by_file(kinds):
    return [
        pytest.param(kind, id=kind.file, marks=[pytest.mark.slow] if kind.slow else [])
        for kind in kinds
    ]


USED = [kind for kind in KINDS if kind.result in ("used", "padded")]
REFUSED = [kind for kind in KINDS if kind not in USED]


@pytest.mark.parametrize("kind", by_file(USED))
def test_a_clip_shows_the_right_frames_and_sounds_at_the_right_time(tmp_path, kind: Kind):
    kind.make(tmp_path / kind.file)
    clip = decode(tmp_path / kind.file)
    upright = [np.rot90(frame, -kind.turned // 90) for frame in clip.frames]
    assert [read_counter(frame, *kind.size) for frame in upright] == (kind.frames or at_rate(25))

    source = sweep(10, SAMPLE_RATE, channels=1, start=kind.sound_at)[0]
    held = slice(int(max(0, kind.sound_at) * SAMPLE_RATE), int(clip.sound_seconds * SAMPLE_RATE))
    late, level = offset_and_level(clip.sound[held], source[held])
    assert abs(late) <= SAMPLE_RATE / 1000  # the clock of mp4's edit lists and of mkv ticks in ms
    assert level == pytest.approx(1, abs=0.01)

    lacks = 10 - min(clip.picture_seconds, clip.sound_seconds)
    assert (lacks > 0.1) == (kind.result == "padded")


@pytest.mark.parametrize("kind", by_file(REFUSED))
def test_an_unusable_clip_is_refused_with_the_reason(tmp_path, kind: Kind):
    kind.make(tmp_path / kind.file)
    with pytest.raises(UnusableClipError, match=kind.result):
        decode(tmp_path / kind.file)


def test_the_documented_kinds_are_the_tested_ones():
    page = (Path(__file__).parent.parent / "docs/clips.md").read_text()
    rows = re.findall(r"^\| (?!kind of clip|---)([^|]+?) \|", page, re.MULTILINE)
    # Tested above, in test_clips.py and in test_strange_files.py.
    elsewhere = {
        "a gap in the sound",
        "hangs the decoder",
        "crashes the decoder",
        "title or other text not in UTF-8",
        "channels that cancel each other",
        "silent sound",
        "several sound or picture tracks",
        "samples that are not numbers, or 60 dB over full scale",
        "missing frames, where the file declares how long a frame lasts",
        "encrypted, or with an unknown codec",
        "more than 8192x8192 = 67108864 pixels, or one side more than 32 times the other",
        "sampling rate below 1000 or above 768000 Hz",
        "any other failure",
    }
    assert sorted(rows) == sorted({kind.row for kind in KINDS} | elsewhere)


def test_no_decoded_frame_waits_for_the_garbage_collector(tmp_path):
    size = 256, 192
    path = write_video(tmp_path / "a.mp4", size=size, sound=tone())
    gc.collect()
    gc.disable()
    try:
        decode(path)
        frames = [one for one in gc.get_objects() if type(one) is av.VideoFrame]
    finally:
        gc.enable()
    assert [(frame.width, frame.height) for frame in frames].count(size) <= 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ten_seconds_of_4k_take_less_than_a_gigabyte(tmp_path):
    write_video(tmp_path / "4k.mp4", frames=300, fps=30, size=(3840, 2160), sound=tone())
    program = """
import re, sys
from pathlib import Path
from cace.media.decode import decode_clip
decode_clip(Path(sys.argv[1]), seconds=10, fps=16, short_side=232, crop=224)
# Not getrusage: a process inherits the peak of the one that started it.
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
    command = [sys.executable, "-c", program, str(tmp_path / "4k.mp4")]
    peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(peak) * 1024 < 1e9


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv444p", "yuv422p10le"])
def test_planes_hold_the_values_of_packed_pixels(tmp_path, pixels):
    path = write_video(tmp_path / "a.mp4", frames=10, pixels=pixels, size=(160, 90), sound=tone())
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    sides = {"width": 170, "height": 96, "interpolation": SCALING["bilinear"]}
    packed = VideoReformatter().reformat(frame, format="rgb24", **sides).to_ndarray()
    clip = decode_clip(path, seconds=10, fps=1, short_side=96, crop=96, min_seconds=0.1)
    assert np.array_equal(clip.frames[0], packed[:, 37:133])

from fractions import Fraction

import numpy as np
import pytest

from cace.media import SAMPLE_RATE, UnusableClipError, decode_clip
from tests.videos import read_counter, tone, write_video

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


def test_a_portrait_clip_is_cropped_to_its_middle(tmp_path):
    path = write_video(tmp_path / "a.mp4", size=(96, 128), sound=tone())
    assert counters(decode(path), (96, 128))[:20] == [int(k * 25 / 16) for k in range(20)]


def damaged(kind, tmp_path):
    path = tmp_path / "a.mp4"
    if kind == "html":
        path.write_text("<html>Quota exceeded</html>")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "silent":
        write_video(path)
    elif kind == "blind":
        write_video(path, sound=tone(), picture=False)
    elif kind == "short":
        write_video(path, frames=125, sound=tone())
    elif kind == "cut":
        write_video(path, sound=tone())
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("html", "not decodable"),
        ("empty", "not decodable"),
        ("cut", "not decodable"),
        ("silent", "no sound track"),
        ("blind", "no picture track"),
        ("short", "picture ends at 5.00 s, expected at least 9 s"),
    ],
)
def test_an_unusable_clip_says_why(tmp_path, kind, reason):
    with pytest.raises(UnusableClipError, match=reason):
        decode(damaged(kind, tmp_path))

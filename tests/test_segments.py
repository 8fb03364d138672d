"""Videos of any length, decoded one second at a time."""

import math

import numpy as np
import pytest

from cace.conventions import SAMPLE_RATE
from cace.media.decode import decode_clip
from cace.media.tracks import UnusableClipError
from cace.media.video import decode_segments, probe
from tests.videos import (
    WRONG_KINDS,
    offset_and_level,
    read_counter,
    sweep,
    tone,
    write_video,
    write_wrong_kind,
)

SIZE = (128, 96)
SCALED = {"short_side": 96, "crop": 96}


def refuse(what):
    raise AssertionError(f"damaged {what}")


def decode(path, fps=4, damaged=refuse):
    return list(decode_segments(path, fps=fps, **SCALED, damaged=damaged, remark=damaged))


def counters(segments):
    return [read_counter(frame, *SIZE) for segment in segments for frame in segment.frames]


def test_every_second_holds_its_own_frames_and_the_last_is_filled(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=645, sound=tone(25.8))
    segments = decode(path)
    expected = [min(int(k / 4 * 25 + 1e-6), 644) for k in range(26 * 4)]
    assert counters(segments) == expected
    assert [segment.seconds for segment in segments[:25]] == [1.0] * 25
    assert segments[25].seconds == pytest.approx(0.8, abs=0.03)  # to a frame of sound


def test_the_first_ten_seconds_are_those_of_a_clip(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=500, sound=sweep(20, rate=44_100), rate=44_100)
    clip = decode_clip(path, seconds=10, fps=4, **SCALED)
    segments = decode(path)[:10]
    assert np.array_equal(np.concatenate([s.frames for s in segments]), clip.frames)
    sound = np.concatenate([segment.sound for segment in segments])
    # The clip ends at ten seconds, where the resampler meets silence: the last samples differ.
    assert np.abs(sound - clip.sound)[:-200].max() < 1e-6


@pytest.mark.parametrize("rate", [16_000, 32_000, 48_000])
def test_sound_is_in_its_place_after_half_a_minute(tmp_path, rate):
    source = sweep(30, rate=rate)
    path = write_video(tmp_path / "a.mkv", frames=300, fps=10, sound=source, rate=rate)
    sound = np.concatenate([segment.sound for segment in decode(path)])[20 * 32_000 : 30 * 32_000]
    late, level = offset_and_level(sound, sweep(30, rate=SAMPLE_RATE)[0][20 * 32_000 :])
    assert abs(late) <= 1024 * SAMPLE_RATE // rate  # a frame of AAC: what the format may shift
    assert level == pytest.approx(1, abs=0.05)


def test_late_sound_is_preceded_by_silence(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=300, sound=tone(9), sound_start=3.0)
    level = [np.abs(segment.sound).mean() for segment in decode(path)[:12]]
    assert max(level[:3]) < 0.01
    assert min(level[3:]) > 0.3  # of a sine of amplitude 0.5


def test_the_shorter_track_is_continued(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=50, sound=tone(4))
    assert counters(decode(path))[8:16] == [49] * 8
    path = write_video(tmp_path / "b.mp4", frames=100, sound=tone(2))
    segments = decode(path)
    assert len(segments) == 4
    assert not segments[3].sound.any()


def test_what_follows_a_damaged_place_is_still_there(tmp_path):
    path = write_video(tmp_path / "a.mkv", frames=250, sound=tone())
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    found = []
    segments = decode(path, damaged=found.append)
    assert found
    assert counters(segments[9:10])[-1] == int(9.75 * 25 + 1e-6)


def test_joined_recordings_continue_where_their_times_start_again(tmp_path):
    parts = [
        write_video(tmp_path / f"{k}.ts", frames=150, first=150 * k, sound=tone(6)).read_bytes()
        for k in range(2)
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    found = []
    segments = decode(tmp_path / "both.ts", damaged=found.append)
    assert "times: they start again at 6 s" in found
    assert sum(segment.seconds for segment in segments) == pytest.approx(12, abs=0.2)
    # Where the parts meet, a frame more or less is the format's.
    assert counters(segments)[40] == pytest.approx(250, abs=3)


def test_a_damaged_first_picture_does_not_hide_the_rest(tmp_path):
    path = write_video(tmp_path / "a.ts", frames=600, sound=tone(24))  # a whole picture each 10 s
    data = path.read_bytes()
    path.write_bytes(data[len(data) // 8 // 188 * 188 :])
    assert probe(path, **SCALED).view == pytest.approx((0.125, 0, 0.75, 1))
    shown = counters(decode(path, damaged=lambda _: None))
    assert shown[-1] == 599 or shown[-2] == 599


def test_a_file_that_breaks_off_ends_there(tmp_path):
    path = write_video(tmp_path / "a.mkv", frames=250, sound=tone())
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    # Sound and picture lie side by side in the file, so three quarters of it are 7.5 s.
    assert len(decode(path, damaged=lambda _: None)) == 8


def test_a_timestamp_far_away_is_no_reason_to_wait_for_it(tmp_path):
    times = [*np.arange(50) / 25, 20_000.0]
    path = write_video(tmp_path / "a.mp4", frames=51, times=times, sound=tone(2))
    found = []
    assert sum(segment.seconds for segment in decode(path, damaged=found.append)) < 2.1
    assert found == ["picture data: nothing from 2 s on"]


def test_the_view_is_the_centre_square_of_the_turned_picture(tmp_path):
    wide = write_video(tmp_path / "a.mp4", frames=25, sound=tone(1))  # 128 x 96
    assert probe(wide, short_side=96, crop=96).view == pytest.approx((0.125, 0, 0.75, 1))
    turned = write_video(tmp_path / "b.mp4", frames=25, sound=tone(1), rotation=90)
    assert probe(turned, short_side=96, crop=48).view == pytest.approx((0.25, 0.3125, 0.5, 0.375))
    assert math.isclose(probe(wide, **SCALED).seconds, 1.0, abs_tol=0.1)


@pytest.mark.parametrize(
    ("name", "reason"),
    WRONG_KINDS.items(),
)
def test_a_file_of_the_wrong_kind_is_refused_with_the_reason(tmp_path, name, reason):
    path = write_wrong_kind(tmp_path / name)
    with pytest.raises(UnusableClipError, match=reason):
        probe(path, **SCALED)

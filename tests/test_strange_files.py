"""Files that other software, or damage, leaves: read as a player reads them, or refused by name."""

import io
import re
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from av.bitstream import BitStreamFilterContext
from PIL import Image

from cace.cli import main
from cace.data.sources.folder import clip_files
from cace.inference.exports import videos
from cace.media.decode import decode_clip
from cace.media.pool import judge_clip
from cace.media.tracks import UnusableClipError
from cace.media.video import decode_segments, probe
from cace.system.errors import UserError
from tests.damage import write_damaged
from tests.videos import draw_counter, read_counter, tone, write_video

SCALED = {"short_side": 96, "crop": 95}  # an odd margin: the crop is not symmetric


def decode(path, **options):
    return decode_clip(path, **{"seconds": 1, "fps": 2, "min_seconds": 0.5, **SCALED, **options})


def judge(path):
    return judge_clip(path, fps=2, min_seconds=0.5, jpeg_quality=90, backend="pyav", **SCALED)


def read_all(path):
    """A long video: the seconds of it, what is damaged, and the remarks."""
    damages, remarks = [], []
    options = {**SCALED, "damaged": damages.append, "remark": remarks.append}
    return list(decode_segments(path, fps=2, **options)), damages, remarks


@contextmanager
def less_memory_than(limit: float) -> Iterator[None]:
    """Fails if this process uses so many bytes more in between."""
    if sys.platform != "linux":
        pytest.skip("reads /proc")

    def used(what):
        return 1024 * int(re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())[1])

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = used("VmRSS")
    yield
    assert used("VmHWM") - before < limit


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """One second of video and sound."""
    folder = tmp_path_factory.mktemp("second")
    return write_video(folder / "good.mp4", frames=25, sound=tone(1))


def with_matrix(a, b, c, d, source, target):
    """A copy whose picture track has another display matrix."""
    data = bytearray(source.read_bytes())
    tracks = [at for at in range(len(data)) if data.startswith(b"tkhd", at)]
    sizes = [struct.unpack_from(">I", data, at + 80)[0] for at in tracks]  # width; 0 for sound
    at = next(at for at, width in zip(tracks, sizes, strict=True) if width)
    numbers = (a, b, 0, c, d, 0, 0, 0, 1 << 14)
    struct.pack_into(">9i", data, at + 44, *(number << 16 for number in numbers))
    target.write_bytes(data)
    return target


TURNS = {
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "upside down": ((1, 0, 0, -1), np.flipud),
    "transposed": ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    "transposed the other way": ((0, -1, -1, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
    "a quarter to the right": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "a quarter to the left": ((0, -1, 1, 0), np.rot90),
    "half a turn": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
}


@pytest.mark.parametrize("backend", ["pyav", "decord"])
@pytest.mark.parametrize("turn", TURNS)
def test_a_display_matrix_turns_and_mirrors_the_picture(second, tmp_path, turn, backend):
    if backend == "decord":
        pytest.importorskip("decord", reason="no decord for this platform")
    matrix, expected = TURNS[turn]
    path = with_matrix(*matrix, second, tmp_path / "turned.mp4")
    plain = decode(second, backend=backend).frames
    assert read_counter(plain[1], 128, 96) == 12
    assert np.array_equal(decode(path, backend=backend).frames[1], expected(plain[1]))


@pytest.mark.parametrize("turn", TURNS)
def test_a_long_video_is_turned_like_a_clip(second, tmp_path, turn):
    path = with_matrix(*TURNS[turn][0], second, tmp_path / "turned.mp4")
    segments, damages, remarks = read_all(path)
    assert np.array_equal(segments[0].frames, decode(path).frames)
    assert damages == remarks == []
    _, _, width, height = probe(path, **SCALED).view
    assert (width < height) != bool(TURNS[turn][0][1])  # 128 x 96, unless it is transposed


def remuxed(source, target, change):
    """A copy whose picture went through a bitstream filter of FFmpeg."""
    with av.open(str(source)) as original, av.open(str(target), "w") as copy:
        tracks = [copy.add_stream_from_template(track) for track in original.streams]
        changing = BitStreamFilterContext(change, original.streams.video[0])
        for packet in original.demux():
            kind, track = packet.stream.type, tracks[packet.stream.index]
            for changed in changing.filter(packet) if kind == "video" else [packet]:
                if changed.dts is not None:
                    changed.stream = track
                    copy.mux(changed)
    return target


def test_a_turn_that_only_key_frames_have_is_that_of_all_frames(second, tmp_path):
    turn = "h264_metadata=display_orientation=insert:flip=horizontal"
    turned = decode(remuxed(second, tmp_path / "turned.mkv", turn)).frames
    plain = decode(remuxed(second, tmp_path / "plain.mkv", "null")).frames
    assert np.array_equal(turned, plain[:, :, ::-1])


@pytest.mark.parametrize(("orientation", "quarters"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_a_picture_is_turned_even_beside_side_data_that_pyav_cannot_read(
    tmp_path, orientation, quarters
):
    # A JPEG with an Exif tag; the MV-HEVC of phones has other such data.
    picture, jpeg, tag = draw_counter(9, 128, 96), io.BytesIO(), Image.Exif()
    tag[0x0112] = orientation
    Image.fromarray(picture).save(jpeg, "JPEG", exif=tag)
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        video = container.add_stream("mjpeg", rate=1)
        video.width, video.height, video.pix_fmt = 128, 96, "yuvj420p"
        audio = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.full((1, 8000), 99, np.int16), "s16", "mono")
        sound.sample_rate = 8000
        packet = av.Packet(jpeg.getvalue())
        packet.stream, packet.time_base = video, Fraction(1)
        packet.pts = packet.dts = 0
        container.mux([*audio.encode(sound), packet])
    (frame, _) = decode(tmp_path / "a.mov").frames
    assert read_counter(np.rot90(frame, -quarters), 128, 96) == 9


STRANGE_NAMES = ("12:30 holiday.mp4", "http:127.0.0.1:1?x.mp4", "concat:a.mp4", "%d.mp4", "-.mp4")


@pytest.mark.parametrize("backend", ["pyav", "decord"])
@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_a_name_that_looks_like_an_address_is_a_file(second, tmp_path, monkeypatch, name, backend):
    if backend == "decord":
        pytest.importorskip("decord", reason="no decord for this platform")
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    path.write_bytes(second.read_bytes())
    expected = decode(second, backend=backend).frames
    assert np.array_equal(decode(path, backend=backend).frames, expected)
    assert probe(path, **SCALED) == probe(second, **SCALED)


def replaced(source, target, *pairs):
    """A copy in which some bytes are others."""
    data = source.read_bytes()
    for old, new in pairs:
        assert old in data
        data = data.replace(old, new)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("whose", ["file", "track"])
def test_titles_in_another_encoding_change_nothing(second, tmp_path, whose):
    with av.open(str(second)) as source, av.open(str(tmp_path / "a.mp4"), "w") as copy:
        tracks = [copy.add_stream_from_template(track) for track in source.streams]
        described = copy if whose == "file" else tracks[0]
        described.metadata["title" if whose == "file" else "handler_name"] = "cafZ"
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = tracks[packet.stream.index]
                copy.mux(packet)
    path = replaced(tmp_path / "a.mp4", tmp_path / "b.mp4", (b"cafZ", b"caf\xe9"))
    assert np.array_equal(decode(path).frames, decode(second).frames)
    assert np.array_equal(decode(path).sound, decode(second).sound)
    assert judge(path).facts == judge(second).facts


def test_a_picture_that_ffmpeg_cannot_decode_is_refused(second, tmp_path):
    path = replaced(second, tmp_path / "a.mp4", (b"avc1", b"encv"))
    for read in (decode, lambda path: probe(path, **SCALED)):
        with pytest.raises(UnusableClipError, match="no decoder for the picture track"):
            read(path)
    assert judge(path).facts.sound == "48000 Hz, stereo"


def test_a_sound_track_that_ffmpeg_cannot_decode_is_passed_over_for_one_that_it_can(tmp_path):
    both = with_sounds(tmp_path / "both.mkv", tone(1), tone(1))
    data = both.read_bytes()
    assert data.count(b"A_FLAC") == 2
    (tmp_path / "one.mkv").write_bytes(data.replace(b"A_FLAC", b"A_XXXX", 1))
    (tmp_path / "none.mkv").write_bytes(data.replace(b"A_FLAC", b"A_XXXX"))
    clip = decode(tmp_path / "one.mkv")
    assert np.abs(clip.sound).max() > 0.4
    assert clip.remarks == ["2 sound tracks: only number 2 is used"]
    with pytest.raises(UnusableClipError, match="no decoder for the sound track"):
        decode(tmp_path / "none.mkv")


@pytest.mark.parametrize("rate", [2**31 - 1, 768_001, 999, 1])
def test_an_absurd_sampling_rate_is_refused_at_once(tmp_path, rate):
    path = write_video(
        tmp_path / "a.avi", frames=25, codec="mpeg4", sound=tone(1), sound_codec="pcm_s16le"
    )
    data = bytearray(path.read_bytes())
    at = data.index(b"strf", data.index(b"auds")) + 12
    assert struct.unpack_from("<I", data, at) == (48_000,)
    struct.pack_into("<I", data, at, rate)
    path.write_bytes(data)
    for read in (decode, lambda path: probe(path, **SCALED)):
        with less_memory_than(2e7), pytest.raises(UnusableClipError, match=f"rate of {rate} Hz"):
            read(path)


@pytest.mark.parametrize(
    ("size", "reason"), [((16_000, 16_000), "more than 67108864 pixels"), ((66, 2), "66x2 pixels")]
)
def test_a_picture_of_absurd_size_is_refused_before_it_is_decoded(tmp_path, size, reason):
    small = tmp_path / "small.mov"
    write_video(small, frames=1, size=(50, 40), codec="png", pixels="gray", sound=tone(1))
    sizes = [(struct.pack(code, 50, 40), struct.pack(code, *size)) for code in (">HH", ">II")]
    path = replaced(small, tmp_path / "a.mov", *sizes)  # in the header, and in the PNG
    with less_memory_than(2e7):
        for read in (decode, lambda path: probe(path, **SCALED)):
            with pytest.raises(UnusableClipError, match=f"a picture of {reason}"):
                read(path)
        assert judge(path).facts.duration == "1.0 s"


def with_sounds(path, *waves, codec="flac", kind="s16"):
    """A second of video with several sound tracks, each [channels, samples] at 48 kHz."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
        tracks = []
        for wave in waves:
            layout = {1: "mono", 2: "stereo"}[len(wave)]
            track = container.add_stream(codec, rate=48_000, layout=layout)
            packed = wave.T.reshape(1, -1)
            samples = packed if kind == "flt" else np.rint(packed * 32_767)
            dtype = np.float32 if kind == "flt" else np.int16
            block = av.AudioFrame.from_ndarray(samples.astype(dtype), kind, layout)
            block.sample_rate, block.time_base, block.pts = 48_000, Fraction(1, 48_000), 0
            tracks.append((track, block))
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(draw_counter(number, 128, 96), "rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for track, block in tracks:
            container.mux([*track.encode(block), *track.encode(None)])
    return path


LOUD, SILENT = tone(1), np.zeros((2, 48_000))
OPPOSITE = tone(1) * [[1], [-1]]
NOISE = np.random.default_rng(0).normal(scale=0.1, size=(2, 48_000))
CANCEL = ["the channels of the sound cancel each other: little is left of their mean"]
SOUNDS = {
    "the same in both channels": ((LOUD,), []),
    "unrelated in both channels": ((NOISE,), []),
    "silent in one channel": ((LOUD * [[1], [0]],), []),
    "silent": ((SILENT,), ["the sound is digitally silent"]),
    "opposite": ((OPPOSITE,), CANCEL),
    "almost opposite": ((OPPOSITE * [[1], [0.9]],), CANCEL),
    "a voice to one side of opposite noise": ((0.1 * OPPOSITE + NOISE,), []),
    "two tracks": ((LOUD, LOUD), ["2 sound tracks: only number 1 is used"]),
    "the first of two is silent": (
        (SILENT, LOUD),
        ["2 sound tracks: only number 1 is used", "the sound is digitally silent"],
    ),
}


@pytest.mark.parametrize("sound", SOUNDS)
def test_sound_that_is_lost_is_remarked_on_for_clips_and_videos(tmp_path, sound):
    waves, expected = SOUNDS[sound]
    path = with_sounds(tmp_path / "a.mkv", *waves)
    assert judge(path).remarks == expected
    assert read_all(path)[1:] == ([], expected)


@pytest.mark.parametrize("codec", ["aac", "mp3"])
def test_lossy_codecs_hide_no_lost_sound(tmp_path, codec):
    for wave, expected in ((SILENT, ["the sound is digitally silent"]), (OPPOSITE, CANCEL)):
        path = tmp_path / "a.mp4"
        write_video(path, frames=25, sound=wave, sound_codec=codec)
        assert decode(path).remarks == expected


def test_a_second_picture_is_remarked_on_and_a_cover_is_not(second, tmp_path):
    with av.open(str(second)) as source, av.open(str(tmp_path / "a.mkv"), "w") as copy:
        tracks = [copy.add_stream_from_template(track) for track in source.streams]
        again = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux():
            if packet.dts is None:
                continue
            kind = packet.stream.type
            packet.stream = tracks[packet.stream.index]
            copy.mux(packet)
            if kind == "video":
                packet.stream = again
                copy.mux(packet)
    assert decode(tmp_path / "a.mkv").remarks == ["2 picture tracks: only number 1 is used"]


def test_damaged_samples_are_silent_and_remarked_on(tmp_path):
    wave = np.tile(0.5, (2, 48_000))
    wave[0, [10_000, 10_001, 30_000]] = np.nan, np.inf, 3e38
    path = with_sounds(tmp_path / "a.mkv", wave, codec="pcm_f32le", kind="flt")
    with np.errstate(all="raise"):
        clip = decode(path)
    remark = "3 samples of the sound are not numbers, or far too loud: silence is used instead"
    assert clip.remarks == [remark]
    assert read_all(path)[2] == [remark]
    assert np.isfinite(clip.sound).all()
    # Away from the three places, where the resampler rings, nothing is changed.
    assert clip.sound[8_000:10_000] == pytest.approx(0.5, abs=0.001)
    assert clip.sound[30_000 * 2 // 3] == pytest.approx(0.25, abs=0.15)


def test_a_hole_in_the_picture_is_remarked_on(tmp_path):
    times = [number / 25 + 0.8 * (number >= 10) for number in range(25)]
    path = write_video(tmp_path / "a.mkv", frames=25, times=times, sound=tone(2))
    remarks = ["0.8 s within the picture have no frame: the last is repeated"]
    assert decode(path, seconds=2).remarks == remarks
    assert read_all(path)[1:] == ([], remarks)


def test_the_same_names_count_as_video_everywhere(tmp_path):
    (tmp_path / "AVE").mkdir()
    for ending in ("mp4", "MOV", "vob", "qt", "3g2", "f4v", "mxf", "dv", "txt", "wav"):
        (tmp_path / f"AVE/a.{ending}").touch()
    found = videos([tmp_path])
    assert found == clip_files(tmp_path)
    assert {path.suffix for path in found} == {
        *(".mp4", ".MOV", ".vob", ".qt", ".3g2", ".f4v", ".mxf", ".dv")
    }


@pytest.fixture
def surprised(monkeypatch):
    """An exception that nobody foresaw, for any file that is read."""

    def surprise(*_, **__):
        raise AttributeError("'NoneType' object has no attribute\n'width'")

    monkeypatch.setattr("cace.media.tracks._to_mono", surprise)


def test_an_unforeseen_exception_refuses_its_clip_by_name(second, surprised):
    verdict = judge(second)
    assert verdict.clip is None
    assert verdict.reason == (
        "not decodable: unexpected AttributeError: 'NoneType' object has no attribute 'width'"
    )
    assert verdict.facts.size == "128x96"


class MuteError(Exception):
    """Of a library with a mistake: it has no text."""

    def __str__(self):
        raise AttributeError


@pytest.mark.parametrize("error", [MuteError(), SystemExit(3)])
def test_an_exception_that_would_end_the_run_refuses_its_clip(second, monkeypatch, error):
    def surprise(*_, **__):
        raise error

    monkeypatch.setattr("cace.media.tracks._to_mono", surprise)
    assert type(error).__name__ in judge(second).reason


def test_an_unforeseen_exception_refuses_its_video_by_name(second, surprised):
    with pytest.raises(UnusableClipError, match="not decodable: unexpected AttributeError"):
        read_all(second)


def test_a_library_that_is_missing_is_not_the_fault_of_a_clip(second, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(UserError, match="decord is not installed"):
        decode(second, backend="decord")


def test_check_names_what_is_lost_and_what_cannot_be_decoded(second, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    clips = Path("clips:v2/AVE")  # FFmpeg would take it for an address
    clips.mkdir(parents=True)
    (clips / "good.mp4").write_bytes(second.read_bytes())
    replaced(second, clips / "locked.mp4", (b"avc1", b"encv"))
    with_sounds(clips.absolute() / "still.mkv", SILENT)
    rows = "".join(f"Bark&{name}&good&0&1\n" for name in ("good", "locked", "still"))
    (clips.parent / "Annotations.txt").write_text(rows)
    with pytest.raises(SystemExit) as caught:
        main(["check", str(clips.parent), "--min-seconds", "0.5"])
    said = f"{capsys.readouterr().out}{caught.value}"
    assert "locked: no decoder for the picture track" in said
    assert "still: the sound is digitally silent" in said


@pytest.mark.slow
def test_a_thousand_damaged_files_are_each_used_or_refused_with_a_reason(tmp_path):
    (tmp_path / "AVE").mkdir()
    names = write_damaged(tmp_path / "AVE", 1000)
    rows = "".join(f"Bark&{Path(name).stem}&good&0&5\n" for name in names)
    (tmp_path / "Annotations.txt").write_text(rows)
    with pytest.raises(SystemExit, match="problems"):
        main(["check", str(tmp_path), "--csv", str(tmp_path / "clips.csv")])
    clips = pd.read_csv(tmp_path / "clips.csv", dtype={"id": str}, keep_default_na=False)
    assert clips["id"].tolist() == [Path(name).stem for name in names]
    assert (clips["usable"] == (clips["reason"] == "")).all()
    assert 100 < clips["usable"].sum() < 900
    assert not clips["reason"].str.contains("crashed|not decoded within").any()

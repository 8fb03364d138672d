"""Clips as they come: one file of each kind, and what must become of it.

docs/clips.md has a row for each `Kind.row`; a test keeps the two in step.
"""

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from tests.videos import sweep, write_video

SIZE = (176, 132)  # the counter's columns keep their places when it is doubled or stretched
TIMES = np.arange(160) / 16  # of the kept frames
VARIABLE = np.sort(np.random.default_rng(0).choice(np.arange(1, 499), 150, replace=False)) / 50
DELAY = 1024 / 48_000  # seconds of nothing with which an AAC encoder starts

AC3_DELAY = 256 / 48_000


class Kind(NamedTuple):
    """A kind of clip."""

    row: str  # first column of docs/clips.md
    file: str
    make: Callable[[Path], object]
    result: str = "used"  # used | padded | the reason of the refusal
    frames: Sequence[int] | None = None  # shown at TIMES; by default those of 25 fps
    sound_at: float = 0.0  # seconds into the clip at which the source starts
    size: tuple[int, int] = SIZE  # as a player shows it, before the turn
    turned: int = 0  # degrees counterclockwise
    slow: bool = False


def at_rate(fps: Fraction | int, start: float = 0.0, count: int = 10_000) -> list[int]:
    """Numbers of the frames shown at TIMES, the first and the last repeated."""
    shown = np.floor((TIMES - start) * float(fps) + 1e-3).astype(int)
    return np.clip(shown, 0, count - 1).tolist()


def video(**options) -> Callable[[Path], object]:
    """Writes a clip of 10 s with a sweep, unless `options` say otherwise."""
    return lambda path: write_video(path, **{"size": SIZE, "sound": sweep(), **options})


def changed(change: Callable[[bytes], bytes], **options) -> Callable[[Path], object]:
    """Writes a clip and changes its bytes."""

    def make(path: Path) -> None:
        whole = path.with_name(f"whole-{path.name}")
        write_video(whole, **{"size": SIZE, "sound": sweep(), **options})
        path.write_bytes(change(whole.read_bytes()))
        whole.unlink()

    return make


def first(share: float) -> Callable[[bytes], bytes]:
    """Cuts a file after its beginning."""
    return lambda data: data[: int(share * len(data))]


def with_bit_rot(data: bytes) -> bytes:
    """Flips one bit in every hundred bytes of the middle half."""
    rotten = bytearray(data)
    for place in range(len(data) // 4, 3 * len(data) // 4, 100):
        rotten[place] ^= 4
    return bytes(rotten)


def hiding_the_tail(data: bytes) -> bytes:
    """An mp4 whose edit lists end after 9.5 s."""
    patched = bytearray(data)
    place = patched.find(b"elst")
    while place >= 0:
        struct.pack_into(">I", patched, place + 12, 9_500)  # ms, the movie's clock
        place = patched.find(b"elst", place + 4)
    return bytes(patched)


def cut_from(start: float) -> Callable[[Path], object]:
    """Copies packets from the key frame before `start`; an edit list hides what is too early."""

    def make(path: Path) -> None:
        whole = path.with_name(f"whole-{path.name}")
        write_video(whole, size=SIZE, frames=500, sound=sweep(20))
        with av.open(str(whole)) as source, av.open(str(path), "w") as target:
            copies = {s.index: target.add_stream_from_template(s) for s in source.streams}
            source.seek(round(start * av.time_base))
            for packet in source.demux():
                if packet.dts is None:
                    continue
                if packet.stream.type == "audio" and packet.pts * packet.time_base < start:
                    continue
                earlier = round(start / packet.time_base)
                packet.pts, packet.dts = packet.pts - earlier, packet.dts - earlier
                packet.stream = copies[packet.stream.index]
                target.mux(packet)
        whole.unlink()

    return make


def joined(size: tuple[int, int] = SIZE, rate: int = 48_000) -> Callable[[Path], object]:
    """A stream whose second half has another size or rate; its clock starts at 1 s."""

    def make(path: Path) -> None:
        halves = [path.with_name(f"{half}-{path.stem}.ts") for half in (1, 2)]
        times = 1 + np.arange(250) / 25
        write_video(halves[0], size=SIZE, frames=125, times=times, sound=sweep(5), sound_start=1)
        write_video(
            halves[1],
            size=size,
            first=125,
            frames=125,
            times=times[125:],
            sound=sweep(10, rate)[:, 5 * rate :],
            rate=rate,
            sound_start=6,
        )
        path.write_bytes(b"".join(half.read_bytes() for half in halves))
        for half in halves:
            half.unlink()

    return make


def with_a_cover(path: Path) -> None:
    """Sound with one attached picture, as music files have it."""
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=48_000, layout="stereo")
        cover = container.add_stream("mjpeg", rate=25)
        cover.width, cover.height = SIZE
        cover.pix_fmt, cover.disposition = "yuvj420p", av.stream.Disposition.attached_pic
        block = av.AudioFrame.from_ndarray(sweep().astype(np.float32), "fltp", "stereo")
        block.sample_rate, block.pts = 48_000, 0
        frame = av.VideoFrame.from_ndarray(np.zeros((*SIZE[::-1], 3), np.uint8), "rgb24")
        frame.pts = 0
        container.mux([*cover.encode(frame), *cover.encode(None)])
        container.mux([*audio.encode(block), *audio.encode(None)])


def nonsense(content: bytes) -> Callable[[Path], object]:
    """Writes what is no video."""
    return lambda path: path.write_bytes(content)


def leading_elsewhere(path: Path) -> None:
    """Writes a list in the words of FFmpeg that names a good file."""
    write_video(path.with_name("elsewhere.mp4"), size=SIZE, sound=sweep())
    path.write_text("ffconcat version 1.0\nfile elsewhere.mp4\n")


def rotated(degrees: int) -> Kind:
    """A picture that a player turns."""
    make = video(rotation=degrees)
    return Kind(
        "rotated or mirrored by its display matrix", f"turned-{degrees}.mp4", make, turned=degrees
    )


def with_codecs(file: str, picture: str, sound: str, slow: bool = False, **options) -> Kind:
    """A container with its usual codecs."""
    make = video(codec=picture, sound_codec=sound, **options)
    row = "mp4, mkv, webm, mov, avi" if file.endswith(COMMON) else OTHER
    return Kind(row, file, make, slow=slow)


def late(kind: Kind, delay: float) -> Kind:
    """In a container that cannot hide the delay of the sound's encoder: all starts later by it."""
    return kind._replace(frames=at_rate(25, start=delay), sound_at=delay)


COMMON = ("mp4", "mkv", "webm", "mov", "avi")
OTHER = "m4v, qt, f4v, 3gp, 3g2, flv, mpg, vob, ts, m2ts, wmv, asf, ogv, mxf, dv"
RATES = "1 to 120 frames a second, constant or variable"
SIZES = "any size, 144p to 4K"
SOUNDS = "mono, stereo, 5.1; 8 to 96 kHz"
LONG = "longer than 10 s"
EDITED = "edit list"
LATE = "picture or sound late, or short, by up to 1 s"
SHORT = "less than 9 s of picture or of sound"
CUT_LATE = "cut off after 9 s"
CUT = "cut off before 9 s"
NO_VIDEO = "zero bytes, HTML, anything else that is not a video"
NO_FORMAT = "not decodable: not in a format for video with sound"

KINDS = (
    with_codecs("h264.mp4", "libx264", "aac"),
    with_codecs("h265.mp4", "libx265", "ac3"),
    with_codecs("av1.mp4", "libsvtav1", "libopus", size=(352, 264), slow=True),
    with_codecs("h264.mkv", "libx264", "flac"),
    with_codecs("vp8.webm", "libvpx", "libopus"),
    with_codecs("vp9.webm", "libvpx-vp9", "libopus"),
    with_codecs("mjpeg.mov", "mjpeg", "pcm_s16le", pixels="yuvj420p"),
    with_codecs("mpeg4.avi", "mpeg4", "pcm_s16le"),
    with_codecs("h264.avi", "libx264", "pcm_s16le"),
    with_codecs("h264.qt", "libx264", "aac"),
    with_codecs("h264.3g2", "libx264", "aac"),
    late(with_codecs("h264.f4v", "libx264", "aac"), DELAY),
    late(with_codecs("mpeg2.vob", "mpeg2video", "ac3"), AC3_DELAY),
    with_codecs("mpeg2.mxf", "mpeg2video", "pcm_s16le"),
    with_codecs("dv.dv", "dvvideo", "pcm_s16le", size=(720, 576)),
    Kind(RATES, "1fps.mp4", video(frames=10, fps=1), frames=at_rate(1)),
    Kind(RATES, "15fps.mp4", video(frames=150, fps=15), frames=at_rate(15)),
    Kind(RATES, "120fps.mp4", video(frames=1200, fps=120), frames=at_rate(120)),
    Kind(
        RATES,
        "variable.mp4",
        video(frames=151, times=[0.0, *VARIABLE]),
        frames=[int(np.sum(time + 1e-6 >= VARIABLE)) for time in TIMES],
    ),
    Kind(SIZES, "144p.mp4", video(size=(256, 144)), size=(256, 144)),
    Kind(SIZES, "4k.mp4", video(size=(3840, 2160)), size=(3840, 2160), slow=True),
    rotated(90),
    rotated(180),
    rotated(270),
    Kind(
        "non-square pixels",
        "wide.mp4",
        video(size=(132, 132), aspect=Fraction(4, 3)),
        size=(132, 132),
    ),
    Kind(SOUNDS, "mono.mp4", video(sound=sweep(channels=1))),
    Kind(SOUNDS, "surround.mkv", video(sound=sweep(channels=6), sound_codec="flac")),
    Kind(SOUNDS, "8khz.mp4", video(sound=sweep(rate=8_000), rate=8_000)),
    Kind(SOUNDS, "96khz.mp4", video(sound=sweep(rate=96_000), rate=96_000)),
    Kind(LONG, "long.mp4", video(frames=750, sound=sweep(30))),
    Kind(LONG, "long-sound.mp4", video(sound=sweep(13))),
    Kind(EDITED, "copied.mp4", cut_from(3.32), frames=at_rate(25, start=-3.32), sound_at=-3.32),
    Kind(EDITED, "hidden.mp4", changed(hiding_the_tail), "padded", at_rate(25, count=238)),
    Kind(
        "no edit list for the encoder's delay",
        "fragmented.mp4",
        video(muxer={"movflags": "frag_keyframe+empty_moov"}),
        frames=at_rate(25, start=DELAY),
        sound_at=DELAY,
    ),
    Kind(
        LATE, "late-sound.mp4", video(sound=sweep(9.75), sound_start=0.25), "padded", sound_at=0.25
    ),
    Kind(LATE, "short-sound.mp4", video(sound=sweep(9.2)), "padded"),
    Kind(
        LATE,
        "late-picture.mp4",
        video(frames=238, times=0.5 + np.arange(238) / 25),
        "padded",
        at_rate(25, start=0.5, count=238),
    ),
    Kind(LATE, "short-picture.mp4", video(frames=238), "padded", at_rate(25, count=238)),
    Kind(SHORT, "5s.mp4", video(frames=125), "5.00 s of picture, expected at least 9 s"),
    Kind(SHORT, "delayed.mp4", video(sound=sweep(8), sound_start=2), "8.0. s of sound, expected"),
    Kind("no sound track", "silent.mp4", video(sound=None), "no sound track"),
    Kind("no picture track", "blind.mp4", video(picture=False), "no picture track"),
    Kind("cover art, no video", "cover.mp4", with_a_cover, "no frame in the picture track"),
    Kind(CUT_LATE, "cut-late.mkv", changed(first(0.97)), "padded", at_rate(25, count=243)),
    Kind(CUT, "cut.mkv", changed(first(0.5)), "s of picture, expected at least 9 s"),
    Kind(CUT, "cut.mp4", changed(first(0.5)), "not decodable"),
    Kind(
        CUT,
        "cut-indexed.mp4",
        changed(first(0.5), muxer={"movflags": "faststart"}),
        "damaged .* data",
    ),
    Kind("damaged", "rotten.mp4", changed(with_bit_rot), "damaged .* data"),
    Kind("damaged", "rotten.mkv", changed(with_bit_rot), "damaged .* data"),
    Kind(
        "picture size changes",
        "two-sizes.mp4",
        joined(size=(352, 264)),
        frames=at_rate(25, start=DELAY),
        sound_at=DELAY,
    ),
    Kind(
        "sampling rate changes",
        "two-rates.mp4",
        joined(rate=44_100),
        "the sampling rate changes within the sound track",
    ),
    Kind(NO_VIDEO, "a.wav", video(picture=False, sound_codec="pcm_s16le"), NO_FORMAT),
    Kind(NO_VIDEO, "a.gif", video(codec="gif", pixels="rgb8", sound=None), NO_FORMAT),
    Kind(NO_VIDEO, "empty.mp4", nonsense(b""), "not decodable"),
    Kind(NO_VIDEO, "page.mp4", nonsense(b"<html>Quota exceeded</html>"), "not decodable"),
    Kind(
        NO_VIDEO,
        "noise.mp4",
        nonsense(np.random.default_rng(0).bytes(100_000)),
        "not decodable|no picture track",
    ),
    Kind(NO_VIDEO, "list.mp4", leading_elsewhere, "not decodable"),
)

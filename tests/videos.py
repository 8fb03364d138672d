"""Small video files whose every frame shows its own number and whose sound is known."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from scipy.signal import correlate

BITS = 11
FRAME_CLOCK = (".avi", ".vob", ".mxf")  # their clock is the frame rate
FAST = {
    "libx264": {"preset": "ultrafast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=1"},
    "libvpx": {"deadline": "realtime", "cpu-used": "16"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "10", "crf": "20", "svtav1-params": "lp=1"},  # 12 writes broken files
}


def draw_counter(number: int, width: int, height: int) -> np.ndarray:
    """A frame with the number in binary: eleven grey or white columns in its middle half."""
    frame = np.full((height, width, 3), 30, np.uint8)
    left, step = width // 4, width // 2 // BITS
    for bit in range(BITS):
        if number >> bit & 1:
            frame[height // 4 : -height // 4, left + bit * step : left + (bit + 1) * step] = 240
    return frame


def read_counter(frame: np.ndarray, width: int, height: int) -> int:
    """The number on a decoded frame: short side scaled to `frame`'s, cropped to a square."""
    side = len(frame)
    scale = side / min(width, height)
    step = width // 2 // BITS * scale
    left = side / 2 - (width / 2 - width // 4) * scale
    row = frame[side // 2].mean(axis=-1)
    centres = [round(left + (bit + 0.5) * step) for bit in range(BITS)]
    return sum(1 << bit for bit, x in enumerate(centres) if row[x] > 135)


def write_video(
    path: Path,
    *,
    frames: int = 250,
    first: int = 0,
    fps: Fraction | int = 25,
    size: tuple[int, int] = (128, 96),
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rotation: int = 0,
    aspect: Fraction | int = 1,
    sound: np.ndarray | None = None,
    rate: int = 48_000,
    sound_codec: str = "aac",
    sound_start: float = 0.0,
    picture: bool = True,
    muxer: dict[str, str] | None = None,
) -> Path:
    """Frame k shows first + k, at `times[k]` or k / fps seconds; sound is [channels, samples].

    rotation: degrees counterclockwise by which a player turns the picture.
    aspect: width of a pixel over its height.
    """
    clock = Fraction(1, 90_000)
    known = "mov" if path.suffix == ".qt" else None  # FFmpeg does not know this ending
    with av.open(str(path), "w", format=known, options=muxer or {}) as container:
        if picture:
            video = container.add_stream(codec, rate=fps, options=FAST.get(codec, {}))
            video.width, video.height = size
            video.pix_fmt = pixels
            if path.suffix not in FRAME_CLOCK:
                video.time_base = video.codec_context.time_base = clock
            video.codec_context.sample_aspect_ratio = Fraction(aspect)
            if rotation:
                video.set_display_rotation(rotation)
        if sound is not None:
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
            audio = container.add_stream(sound_codec, rate=rate, layout=layout)
            audio.bit_rate = 96_000 * len(sound)
            block = av.AudioFrame.from_ndarray(sound.astype(np.float32), "fltp", layout)
            block.sample_rate, block.time_base = rate, Fraction(1, rate)
            block.pts = round(sound_start * rate)
            container.mux([*audio.encode(block), *audio.encode(None)])
        if picture:
            for number in range(frames):
                frame = av.VideoFrame.from_ndarray(draw_counter(first + number, *size), "rgb24")
                at = times[number] if times is not None else number / fps
                frame.pts, frame.time_base = round(at / clock), clock
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
    return path


def tone(seconds: float = 10.0, rate: int = 48_000, channels: int = 2, hz: float = 440.0):
    """A sine of amplitude 0.5, the same in all channels."""
    wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    return np.tile(wave, (channels, 1))


def sweep(seconds: float = 10.0, rate: int = 48_000, channels: int = 2, start: float = 0.0):
    """A tone that rises by 100 Hz a second from `start` on: no two moments sound alike."""
    time = np.arange(round(seconds * rate)) / rate - start
    wave = 0.5 * np.sin(2 * np.pi * (300 + 50 * time) * time) * (time >= 0)
    return np.tile(wave, (channels, 1))


def offset_and_level(sound: np.ndarray, source: np.ndarray) -> tuple[int, float]:
    """How many samples `sound` is late against its source, and how loud it is beside it."""
    late = int(correlate(sound, source).argmax()) - (len(source) - 1)
    there = np.roll(source, late)
    return late, float(sound @ there / (there @ there))


# Files that are not a video with sound, by name, and the reason to refuse them.
WRONG_KINDS = {
    "silent.mp4": "no sound track",
    "dark.mp4": "no picture track",
    "page.mp4": "decodable",
}


def write_wrong_kind(path: Path) -> Path:
    """One of WRONG_KINDS, by its name."""
    if path.name == "silent.mp4":
        return write_video(path, frames=25)
    if path.name == "dark.mp4":
        return write_video(path, picture=False, sound=tone(1))
    path.write_text("<html>not here</html>")
    return path

"""Small video files whose every frame shows its own number and whose sound is known."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 10


def draw_counter(number: int, width: int, height: int) -> np.ndarray:
    """A frame with the number in binary: ten grey or white columns in its middle half."""
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
    fps: Fraction | int = 25,
    size: tuple[int, int] = (128, 96),
    times: Sequence[float] | None = None,
    sound: np.ndarray | None = None,
    rate: int = 48_000,
    sound_start: float = 0.0,
    picture: bool = True,
) -> Path:
    """Frame k shows k, at `times[k]` or k / fps seconds; sound is [channels, samples] or none."""
    clock = Fraction(1, 90_000)
    with av.open(str(path), "w") as container:
        if picture:
            video = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
            video.width, video.height = size
            video.pix_fmt, video.time_base = "yuv420p", clock
            video.codec_context.time_base = clock
        if sound is not None:
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
            audio = container.add_stream("aac", rate=rate, layout=layout)
            audio.bit_rate = 96_000 * len(sound)
            block = av.AudioFrame.from_ndarray(sound.astype(np.float32), "fltp", layout)
            block.sample_rate, block.time_base = rate, Fraction(1, rate)
            block.pts = round(sound_start * rate)
            container.mux([*audio.encode(block), *audio.encode(None)])
        if picture:
            for number in range(frames):
                frame = av.VideoFrame.from_ndarray(draw_counter(number, *size), "rgb24")
                at = times[number] if times is not None else number / fps
                frame.pts, frame.time_base = round(at / clock), clock
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
    return path


def tone(seconds: float = 10.0, rate: int = 48_000, channels: int = 2, hz: float = 440.0):
    """A sine of amplitude 0.5, the same in all channels."""
    wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    return np.tile(wave, (channels, 1))

"""A video of any length, one second at a time.

Frames and sound are chosen as for a clip (decode.py), but no video is refused for its length, and
decoding continues after damaged places.
"""

from collections.abc import Callable, Generator, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import soxr
from jaxtyping import Float32, UInt8

from cace.conventions import SAMPLE_RATE
from cace.media.decode import (
    CONTIGUOUS_SECONDS,
    LONGEST_GAP_SECONDS,
    FramePicker,
    orientation,
    scaled_size,
)
from cace.media.store import BILINEAR
from cace.media.tracks import (
    Levels,
    Picture,
    Sound,
    UnusableClipError,
    decode_tracks,
    open_file,
    refusing_failures,
)

# Times that jump back by more than this begin a new recording, joined to the one before.
RESTART_SECONDS = 1.0


class Segment(NamedTuple):
    """One second of a video."""

    frames: UInt8[np.ndarray, "fps H W 3"]  # RGB
    sound: Float32[np.ndarray, " S"]  # mono in [-1, 1], SAMPLE_RATE samples
    picture_seconds: float  # how much of it the file contains; the rest repeats the last frame
    sound_seconds: float  # likewise; the rest is silence

    @property
    def seconds(self) -> float:
        """How much of it the file contains, of the longer track."""
        return max(self.picture_seconds, self.sound_seconds)


class Note(NamedTuple):
    """Something that a user should know about a video."""

    text: str
    damage: bool  # a damaged place; otherwise a remark, once each


class Probe(NamedTuple):
    """What is known about a video before it is decoded."""

    seconds: float | None  # None: unknown to the container
    view: tuple[float, float, float, float]  # left, top, width, height: share that encoders read
    starts_at: float  # seconds that players show at its start


def read_video(
    path: Path, *, fps: int, short_side: int, crop: int, interpolation: str = BILINEAR
) -> Generator[Probe | Segment | Note, None, None]:
    """All of a video: first its probe, then its seconds, with notes between them.

    Raises: UnusableClipError with the reason, as `probe` and `decode_segments`.
    """
    notes: list[Note] = []
    yield probe(path, short_side=short_side, crop=crop)
    segments = decode_segments(
        path,
        fps=fps,
        short_side=short_side,
        crop=crop,
        interpolation=interpolation,
        damaged=lambda text: notes.append(Note(text, damage=True)),
        remark=lambda text: notes.append(Note(text, damage=False)),
    )
    for segment in segments:
        yield from notes
        notes.clear()
        yield segment
    yield from notes


def probe(path: Path, *, short_side: int, crop: int) -> Probe:
    """Reads the beginning of a video.

    Raises: UnusableClipError with the reason: no video, or no picture or sound track.
    """
    ignored: list[str] = []  # decode_segments tells what is damaged, and the remarks
    with refusing_failures():
        with open_file(path) as container:
            seconds = container.duration / av.time_base if container.duration else None
            # Players show the file's own times for these containers; for others they begin at 0.
            own_clock = any(name in container.format.name for name in ("mp4", "matroska"))
            starts_at = max(0, container.start_time or 0) / av.time_base if own_clock else 0.0
        pictures = decode_tracks(path, sound=False, damaged=ignored.append, remark=ignored.append)
        first = next(pictures, None)
    if not isinstance(first, Picture):
        raise UnusableClipError("no frame in the picture track")
    frame = first.frame
    width, height = scaled_size(frame.width, frame.height, short_side)
    if orientation(frame).transposed:
        width, height = height, width
    share = crop / width, crop / height
    return Probe(seconds, ((1 - share[0]) / 2, (1 - share[1]) / 2, *share), starts_at)


def decode_segments(
    path: Path,
    *,
    fps: int,
    short_side: int,
    crop: int,
    interpolation: str = BILINEAR,
    damaged: Callable[[str], None],
    remark: Callable[[str], None],
) -> Iterator[Segment]:
    """All seconds of a video of any length; memory contains a few of them.

    The shorter track is extended with its last frame, or with silence.
    damaged: called with what is damaged, for each place; decoding continues after it.
    remark: called with what else a user should know, once each.
    Raises: UnusableClipError with the reason: no picture or sound track, or it cannot be opened.
    """
    # Read twice, so that memory stays small however the file interleaves its tracks.
    picker = FramePicker(fps, short_side, crop, interpolation)
    pictures = _pictures(path, picker, damaged, remark)
    sounds = _sounds(path, damaged, remark)
    with refusing_failures():
        for picture, sound in zip(pictures, sounds, strict=False):  # neither ends
            segment = Segment(picture[0], sound[0], picture[1], sound[1])
            if not segment.seconds:
                return
            yield segment


def _pictures(
    path: Path,
    picker: FramePicker,
    damaged: Callable[[str], None],
    remark: Callable[[str], None],
) -> Iterator[tuple[np.ndarray, float]]:
    """Frames of each second, and its seconds of picture; the last frame is repeated forever."""
    fps = picker.fps
    for item in _to_the_end(path, damaged, remark, sound=False):
        assert isinstance(item, Picture)
        if picker.shown is not None and item.at_seconds - picker.shown.at_seconds > (
            LONGEST_GAP_SECONDS
        ):
            damaged(f"picture data: nothing from {picker.shown.at_seconds:.0f} s on")
            break
        picker.add(item)
        while len(picker.chosen) > fps:  # there is a frame after this second, so it is complete
            yield picker.pop(fps), 1.0
    if picker.shown is None:
        raise UnusableClipError("no frame in the picture track")
    for text in picker.remarks():
        remark(text)
    end = picker.end()
    while True:
        second = picker.popped // fps
        picker.fill((second + 1) * fps)
        yield picker.pop(fps), min(1.0, max(0.0, end - second))


def _sounds(
    path: Path, damaged: Callable[[str], None], remark: Callable[[str], None]
) -> Iterator[tuple[np.ndarray, float]]:
    """Sound of each second, and how many seconds of it the file contains; then silence forever."""
    buffer = np.zeros(0, np.float32)
    levels = Levels()
    resampler: soxr.ResampleStream | None = None
    rate, placed = 0, 0  # samples of the track so far, at its own rate
    for piece in _to_the_end(path, damaged, remark, picture=False):
        assert isinstance(piece, Sound)
        levels.add(piece)
        if resampler is None:
            rate = piece.rate
            resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", "HQ")
        if piece.rate != rate:
            raise UnusableClipError("the sampling rate changes within the sound track")
        gap = round(piece.at_seconds * rate) - placed
        if gap > LONGEST_GAP_SECONDS * rate:
            damaged(f"sound data: nothing from {placed / rate:.0f} s on")
            break
        if abs(gap) <= CONTIGUOUS_SECONDS * rate:
            gap = 0
        seconds, rest = divmod(max(0, gap), rate)
        silence = (np.zeros(rate, np.float32) for _ in range(seconds))  # one by one: it may be long
        samples = np.pad(piece.samples[max(0, -gap) :], (rest, 0))
        for block in chain(silence, [samples]):
            placed += len(block)
            buffer = np.concatenate([buffer, resampler.resample_chunk(block)])
            while len(buffer) >= SAMPLE_RATE:
                yield buffer[:SAMPLE_RATE], 1.0
                buffer = buffer[SAMPLE_RATE:]
    if resampler is None:
        raise UnusableClipError("no sound in the sound track")
    for text in levels.remarks():
        remark(text)
    buffer = np.concatenate([buffer, resampler.resample_chunk(buffer[:0], last=True)])
    while True:
        second, buffer = buffer[:SAMPLE_RATE], buffer[SAMPLE_RATE:]
        yield np.pad(second, (0, SAMPLE_RATE - len(second))), len(second) / SAMPLE_RATE


def _to_the_end(
    path: Path, damaged: Callable[[str], None], remark: Callable[[str], None], **tracks: bool
) -> Iterator[Picture | Sound]:
    """All that can be decoded, in order; a file that is cut off ends there."""
    last = shift = 0.0
    try:
        for item in decode_tracks(path, **tracks, damaged=damaged, remark=remark):
            if item.at_seconds + shift < last - RESTART_SECONDS:
                damaged(f"times: they start again at {last:.0f} s")
                shift = last - item.at_seconds
            last = item.at_seconds + shift
            yield item._replace(at_seconds=last)
    except av.error.FFmpegError as error:
        damaged(f"file: {error.strerror or error}")

"""A clip's frames and waveform, from a video file in one pass.

Frames are chosen by timestamp: frame k is the last one shown by k / fps seconds. They are turned as
in a player, but not stretched, because no released features are. Sound is decoded at its original
rate, averaged over its channels, placed by timestamp and resampled with soxr: FFmpeg's own
resampler makes float mono 3 dB too loud. docs/clips.md lists the result for each kind of clip.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import soxr
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import Float32, UInt8

from cace.conventions import MIN_SECONDS, SAMPLE_RATE
from cace.media.store import BILINEAR
from cace.media.tracks import (
    Levels,
    Picture,
    Sound,
    UnusableClipError,
    decode_tracks,
    refusing_failures,
)
from cace.system.errors import UserError

# A frame up to this late for k / fps counts as shown by then: at 29.97 fps it is up to 33 µs.
SAME_TIME_SECONDS = 5e-5
# A sound frame that starts within this of the end of the last one follows it without a gap.
CONTIGUOUS_SECONDS = 0.02

# A longer gap between timestamps means a damaged file, not hours of one picture.
LONGEST_GAP_SECONDS = 3600
# A time without frames that is longer than this is worth a remark.
HOLE_SECONDS = 0.5

# The accurate flags cost 17 % and remove the scaler's bias of 1-2 grey levels.
ACCURATE = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
SCALING = {
    BILINEAR: Interpolation.BILINEAR | ACCURATE,
    "bicubic": Interpolation.BICUBIC | ACCURATE,
    "lanczos": Interpolation.LANCZOS | ACCURATE,
}


class Clip(NamedTuple):
    """The picture and sound that the pipeline uses of a video file."""

    frames: UInt8[np.ndarray, "F H W 3"]  # RGB, fps a second
    sound: Float32[np.ndarray, " S"]  # mono in [-1, 1], SAMPLE_RATE a second
    picture_seconds: float  # how much of it the file contains; the rest repeats the nearest frame
    sound_seconds: float  # likewise; the rest is silence
    remarks: list[str]  # worth knowing, but harmless


def decode_clip(
    path: Path,
    *,
    seconds: int,
    fps: int,
    short_side: int,
    crop: int,
    interpolation: str = BILINEAR,
    backend: str = "pyav",
    min_seconds: float = MIN_SECONDS,
) -> Clip:
    """The first `seconds` of a clip: frames scaled to `short_side` and cropped, 32 kHz sound.

    Raises: UnusableClipError with the reason: no picture or sound track, damaged, or less than
        `min_seconds` of either.
    """
    picker = FramePicker(fps, short_side, crop, interpolation, most=seconds * fps)
    pieces: list[Sound] = []
    remarks: list[str] = []
    levels = Levels()
    with refusing_failures():
        for item in decode_tracks(
            path, seconds, picture=backend == "pyav", damaged=_refuse, remark=remarks.append
        ):
            if isinstance(item, Sound):
                pieces.append(item)
                levels.add(item)
            else:
                picker.add(item)
        if backend == "decord":
            frames, begin, end = _decode_with_decord(
                path, np.arange(seconds * fps) / fps, short_side, crop, interpolation
            )
        else:
            frames, begin, end = picker.finish()
        sound, sound_seconds = _join(pieces, seconds)
    picture_seconds = max(0.0, min(end, seconds) - max(begin, 0.0))
    for what, there in (("picture", picture_seconds), ("sound", sound_seconds)):
        if there < min_seconds:
            raise UnusableClipError(f"{there:.2f} s of {what}, expected at least {min_seconds:g} s")
    remarks += [*picker.remarks(), *levels.remarks()]
    return Clip(frames, sound, picture_seconds, sound_seconds, remarks)


def _refuse(what: str) -> None:
    raise UnusableClipError(f"damaged {what}")


class Orientation(NamedTuple):
    """How a player turns and mirrors a picture: rows become columns first, then it is flipped."""

    transposed: bool
    mirrored: bool  # left and right
    upside_down: bool

    def apply(self, image: np.ndarray) -> np.ndarray:
        """An image [H, W, ...] as a player shows it."""
        if self.transposed:
            image = image.swapaxes(0, 1)
        image = image[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]
        return np.ascontiguousarray(image)


def orientation(frame: av.VideoFrame) -> Orientation:
    """The multiple of 90 degrees, and the mirroring, nearest to a frame's display matrix."""
    try:
        matrix = frame.side_data["DISPLAYMATRIX"]  # type: ignore[typeddict-item]
    except KeyError:
        return Orientation(False, False, False)
    except ValueError:  # PyAV reads no side data beside some kind that it does not know
        turns = round(frame.rotation / 90) % 4  # counterclockwise
        return Orientation(turns % 2 == 1, turns in (2, 3), turns in (1, 2))
    # x' = a x + c y, y' = b x + d y, with y downwards
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)


class FramePicker:
    """Chooses for each time k / fps the last frame shown by then; scales only those frames."""

    def __init__(
        self, fps: int, short_side: int, crop: int, interpolation: str, most: int = sys.maxsize
    ) -> None:
        self.fps, self.short_side, self.crop, self.most = fps, short_side, crop, most
        self.scaling = SCALING[interpolation]
        self.chosen: list[np.ndarray] = []
        self.popped = 0
        self.shown: Picture | None = None
        self.begin = 0.0
        self.orientation = Orientation(False, False, False)
        self.longest = 0.0
        self.holes: list[float] = []  # seconds that no frame is declared to last
        self.reformatter = VideoReformatter()

    def add(self, picture: Picture) -> None:
        """Reads the next frame, in the order of time."""
        if self.shown is None:
            self.begin = picture.at_seconds
            # Of all frames: H.264 may repeat it at key frames only.
            self.orientation = orientation(picture.frame)
        else:
            self._choose_until(picture.at_seconds)
            until_next = picture.at_seconds - self.shown.at_seconds
            self.longest = max(self.longest, until_next)
            lasts = _declared_seconds(self.shown.frame)
            if lasts and until_next - lasts > HOLE_SECONDS:
                self.holes.append(until_next - lasts)
        self.shown = picture

    def remarks(self) -> list[str]:
        """What is worth knowing about the frames so far."""
        if not self.holes:
            return []
        return [f"{sum(self.holes):.1f} s within the picture have no frame: the last is repeated"]

    def finish(self) -> tuple[np.ndarray, float, float]:
        """All frames, the last one repeated; and the seconds where the picture begins and ends."""
        if self.shown is None:
            raise UnusableClipError("no frame in the picture track")
        self.fill(self.most)
        # One by one, so that memory never contains all of them twice.
        frames = np.empty((len(self.chosen), *self.chosen[0].shape), np.uint8)
        for place in reversed(range(len(frames))):
            frames[place] = self.chosen.pop()
        return frames, self.begin, self.end()

    def fill(self, most: int) -> None:
        """Repeats the last frame until there are `most` frames in all."""
        self.most = most
        self._choose_until(np.inf)

    def end(self) -> float:
        """The second at which the picture ends.

        The last frame lasts as long as its duration; without one, as long as the longest other.
        """
        assert self.shown is not None
        lasts = _declared_seconds(self.shown.frame) or self.longest
        return self.shown.at_seconds + (lasts if lasts < LONGEST_GAP_SECONDS else self.longest)

    def pop(self, count: int) -> np.ndarray:
        """Removes and returns the oldest of the chosen frames."""
        frames, self.chosen = self.chosen[:count], self.chosen[count:]
        self.popped += count
        return np.stack(frames)

    def _choose_until(self, next_at: float) -> None:
        assert self.shown is not None
        image = None
        while (place := self.popped + len(self.chosen)) < self.most:
            if place / self.fps + SAME_TIME_SECONDS >= next_at:
                break
            if image is None:
                image = self._scale(self.shown.frame)
            self.chosen.append(image)

    def _scale(self, frame: av.VideoFrame) -> np.ndarray:
        width, height = scaled_size(frame.width, frame.height, self.short_side)
        # Planes of green, blue and red: the same values as rgb24 in two thirds of the time.
        small = self.reformatter.reformat(
            frame, width=width, height=height, format="gbrp", interpolation=self.scaling, threads=1
        )
        return self.orientation.apply(_crop(small.to_ndarray(), self.crop))


def _declared_seconds(frame: av.VideoFrame) -> float:
    """How long a frame is to be shown; 0 if the file does not tell."""
    return float(frame.duration * frame.time_base) if frame.time_base else 0.0


def scaled_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height for this short side, rounded as by torchvision's Resize."""
    if width <= height:
        return short_side, int(short_side * height / width)
    return int(short_side * width / height), short_side


def _crop(image: np.ndarray, size: int) -> np.ndarray:
    top, left = (round((side - size) / 2) for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def _join(pieces: list[Sound], seconds: int) -> tuple[Float32[np.ndarray, " S"], float]:
    """Pieces of sound placed by time and resampled, silence elsewhere; and their seconds."""
    if not pieces:
        raise UnusableClipError("no sound in the sound track")
    rate = pieces[0].rate
    if any(piece.rate != rate for piece in pieces):
        raise UnusableClipError("the sampling rate changes within the sound track")
    track = np.zeros(seconds * rate, np.float32)
    covered = np.zeros(len(track), bool)
    position: int | None = None
    for piece in pieces:
        stamped = round(piece.at_seconds * rate)
        if position is None or abs(stamped - position) > CONTIGUOUS_SECONDS * rate:
            position = stamped
        begin, end = (
            min(max(0, at), len(track)) for at in (position, position + len(piece.samples))
        )
        track[begin:end] = piece.samples[begin - position : end - position]
        covered[begin:end] = True
        position += len(piece.samples)
    sound = track if rate == SAMPLE_RATE else soxr.resample(track, rate, SAMPLE_RATE, "HQ")
    expected = seconds * SAMPLE_RATE
    sound = np.pad(sound[:expected], (0, max(0, expected - len(sound))))
    return sound, covered.sum() / rate


def _decode_with_decord(
    path: Path, times: np.ndarray, short_side: int, crop: int, interpolation: str
) -> tuple[np.ndarray, float, float]:
    """Frames through decord, by its timestamps; it is wrong on clips with an edit list."""
    try:
        import decord
    except ImportError as error:
        raise UserError(
            "decode.backend: decord is not installed; run `pip install -e '.[decord]'` or set pyav"
        ) from error
    try:
        # An absolute path, because FFmpeg would take `12:30.mp4` for an address.
        reader = decord.VideoReader(str(path.absolute()), num_threads=1)
        stamps = reader.get_frame_timestamp(np.arange(len(reader)))
        start = stamps[0, 0]
        chosen = np.searchsorted(stamps[:, 0] - start, times + SAME_TIME_SECONDS, "right") - 1
        unique, back = np.unique(np.maximum(chosen, 0), return_inverse=True)
        # Not scaled by decord: on rotated clips its size would have to be known before opening.
        images = reader.get_batch(unique).asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        raise UnusableClipError("decord cannot decode it") from error
    # Decord turns by the angle of the display matrix, which tells nothing of a mirroring: turned
    # back first, they are treated as those of the other backend.
    ignored: list[str] = []
    tracks = decode_tracks(path, sound=False, damaged=ignored.append, remark=ignored.append)
    first = next(item.frame for item in tracks if isinstance(item, Picture))
    turned = round(first.rotation / 90) % 4
    reformatter = VideoReformatter()
    size = scaled_size(first.width, first.height, short_side)
    scaled = []
    for image in images:
        stored = np.ascontiguousarray(np.rot90(image, -turned))
        frame = av.VideoFrame.from_ndarray(stored, format="rgb24")
        small = reformatter.reformat(
            frame, *size, "rgb24", interpolation=SCALING[interpolation], threads=1
        )
        scaled.append(orientation(first).apply(_crop(small.to_ndarray(), crop)))
    return np.stack(scaled)[back], 0.0, float(stamps[-1, 1] - start)

"""A video file: how it is opened, which of its tracks are used, and their frames and samples.

`cace check`, the stage decode and `cace localize` all read files through here: they refuse the
same files for the same reasons, and make the same remarks.
"""

import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from jaxtyping import Float32

from cace.media.store import Facts
from cace.system.errors import UserError

# Larger pictures are refused: one of this size needs 100 to 270 MB, and a decoder keeps several.
MOST_PIXELS = 8192 * 8192
# Narrower pictures are refused: at a short side of 224, their long side would fill the memory.
MOST_ASPECT = 32
SAMPLING_RATES = range(1_000, 768_001)  # Hz; memory grows with the rate that a file declares
LOUDEST_SAMPLE = 1000.0  # 60 dB over full scale; more is damage, like a sample that is no number
# Sound is called silent where its stored 16 bits are all zero.
SILENT_BELOW = 0.5 / 32_767
# Channels are said to cancel if their mean has less than this share of the power that the mean of
# unrelated channels has.
CANCELLED_SHARE = 0.1

OPTIONS = {
    # Containers of video. Other formats of FFmpeg can lead it to other files and addresses.
    "format_whitelist": "mov,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,mxf,dv",
    "max_pixels": str(MOST_PIXELS),  # FFmpeg decodes a first picture while it opens a file
}


class UnusableClipError(Exception):
    """A clip or video that cannot be used; the text is the reason that users read."""


class Picture(NamedTuple):
    """A decoded frame."""

    frame: av.VideoFrame
    at_seconds: float


class Sound(NamedTuple):
    """The samples of one frame of the sound track."""

    samples: Float32[np.ndarray, " S"]  # mean over channels
    at_seconds: float
    rate: int
    unrelated_power: float  # sum of the squares of `samples`, if the channels were unrelated
    wrong_samples: int  # no number, or far too loud; set to 0


@contextmanager
def refusing_failures() -> Iterator[None]:
    """Turns every exception that one file causes into the reason to refuse this file.

    No list of what a decoder may raise on a damaged file is complete. Only what concerns all files
    alike, such as a missing library, passes.
    """
    try:
        yield
    except (UnusableClipError, UserError, ImportError):
        raise
    except av.error.FFmpegError as error:
        raise UnusableClipError(f"not decodable: {error.strerror or error}") from error
    except Exception as error:
        # Not str(error), which may itself fail.
        what = " ".join("".join(traceback.format_exception_only(error)).split())
        raise UnusableClipError(f"not decodable: unexpected {what}") from error


def open_file(path: Path) -> InputContainer:
    """Opens a video file.

    Raises: FFmpegError if it is none; UnusableClipError if it is of a format that is not read.
    """
    try:
        # `file:` because FFmpeg would take a name such as `12:30 holiday.mp4` for an address.
        # Titles in another encoding than UTF-8 are nothing to fail for.
        return av.open(f"file:{path}", options=OPTIONS, metadata_errors="replace")
    except av.error.ArgumentError as error:  # what FFmpeg answers to a format not in OPTIONS
        raise UnusableClipError(
            "not decodable: not in a format for video with sound; docs/clips.md lists them"
        ) from error


def read_facts(path: Path) -> Facts:
    """What a file declares.

    Raises: FFmpegError or UnusableClipError if it cannot be opened.
    """
    with open_file(path) as container:
        video, audio = _best(container, "video"), _best(container, "audio")
        rate = video.average_rate if isinstance(video, av.VideoStream) else None
        return Facts(
            f"{(container.duration or 0) / av.time_base:.1f} s",
            f"{float(rate):.5g}" if rate else "",
            (f"{video.width}x{video.height}" if video.width else "unknown")
            if isinstance(video, av.VideoStream)
            else "none",
            f"{audio.rate} Hz, {audio.layout.name}"
            if isinstance(audio, av.AudioStream)
            else "none",
        )


def _best(container: InputContainer, kind: str) -> av.stream.Stream | None:
    """The track that players choose, of those that FFmpeg can decode."""
    decodable = [s for s in container.streams if s.type == kind and s.codec_context is not None]
    best = container.streams.best(kind)  # type: ignore[arg-type]
    return best if best in decodable else next(iter(decodable), None)


def _expect_track(
    container: InputContainer, kind: str, what: str, remark: Callable[[str], None]
) -> av.stream.Stream:
    """The best track; `remark` is told if there are others."""
    tracks = [s for s in container.streams if s.type == kind]
    best = _best(container, kind)
    if not tracks:
        raise UnusableClipError(f"no {what} track")
    if best is None:
        raise UnusableClipError(f"no decoder for the {what} track")
    covers = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    shown = [track for track in tracks if track is best or not track.disposition & covers]
    if len(shown) > 1:
        remark(f"{len(shown)} {what} tracks: only number {shown.index(best) + 1} is used")
    return best


def decode_tracks(
    path: Path,
    seconds: int = sys.maxsize,
    *,
    picture: bool = True,
    sound: bool = True,
    damaged: Callable[[str], None],
    remark: Callable[[str], None],
) -> Iterator[Picture | Sound]:
    """Frames and pieces of sound, in the order of the file, timed from the start of the clip.

    picture, sound: which tracks to decode; the file must have both.
    damaged: called with what is damaged, for each place.
    remark: called with what is worth knowing about the tracks that are decoded.
    Raises: UnusableClipError if there is no such track, or none that can be decoded; FFmpegError.
    """
    with open_file(path) as container:
        video = _expect_track(container, "video", "picture", remark if picture else _ignore)
        audio = _expect_track(container, "audio", "sound", remark if sound else _ignore)
        assert isinstance(video, av.VideoStream) and isinstance(audio, av.AudioStream)
        _expect_usable(container, video, audio)
        # One thread per clip: processes scale, and a second thread never made a clip cheaper.
        video.thread_type = "NONE"
        video.codec_context.thread_count = 1
        video.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
        start = (container.start_time or 0) / av.time_base
        time_zero = {audio.index: start, video.index: start}
        if container.format.name == "avi":
            # AVI stores no times: FFmpeg's are late by the frames that wait for B-frames. The
            # first frame is the start.
            del time_zero[video.index]
        streams = [*([video] if picture else []), *([audio] if sound else [])]
        unfinished = {stream.index for stream in streams}
        for packet in container.demux(streams):
            for frame in _frames(packet, damaged):
                if not isinstance(frame, av.AudioFrame | av.VideoFrame) or frame.time is None:
                    continue
                at = frame.time - time_zero.setdefault(packet.stream.index, frame.time)
                if at > seconds:
                    unfinished.discard(packet.stream.index)
                elif isinstance(frame, av.AudioFrame):
                    if frame.sample_rate in SAMPLING_RATES:
                        yield _to_mono(frame, at)
                    else:
                        damaged("sound data")
                elif frame.is_corrupt or not _has_usable_shape(frame.width, frame.height):
                    damaged("picture data")
                else:
                    yield Picture(frame, at)
            if not unfinished:  # the rest of a long video is not needed
                return


def _expect_usable(container: InputContainer, video: av.VideoStream, audio: av.AudioStream) -> None:
    # Where the header declares the size, only OPTIONS or damage can have hidden it.
    hidden = not video.width and container.format.name.startswith(("mov", "matroska", "avi"))
    if hidden or video.width * video.height > MOST_PIXELS:
        raise UnusableClipError(f"a picture of more than {MOST_PIXELS} pixels, or of unknown size")
    if not _has_usable_shape(video.width, video.height):
        raise UnusableClipError(
            f"a picture of {video.width}x{video.height} pixels, expected no side to be more than "
            f"{MOST_ASPECT} times the other"
        )
    if audio.rate not in SAMPLING_RATES:
        raise UnusableClipError(
            f"a sampling rate of {audio.rate} Hz, expected {SAMPLING_RATES[0]} to "
            f"{SAMPLING_RATES[-1]}"
        )


def _ignore(_: str) -> None:
    pass


def _has_usable_shape(width: int, height: int) -> bool:
    return max(width, height) <= MOST_ASPECT * min(width, height)


def _frames(
    packet: av.Packet, damaged: Callable[[str], None]
) -> Sequence[av.AudioFrame | av.VideoFrame]:
    try:
        return packet.decode()
    except av.error.FFmpegError:
        damaged(f"{'picture' if packet.stream.type == 'video' else 'sound'} data")
        return []


def _to_mono(frame: av.AudioFrame, start_seconds: float) -> Sound:
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    wrong = 0
    if samples.dtype.kind in "iu":
        limits = np.iinfo(samples.dtype.name)
        middle = (limits.max + limits.min + 1) // 2  # unsigned samples of silence are in the middle
        samples = (samples.astype(np.float32) - middle) / (limits.max - middle + 1)
    else:
        usable = np.abs(samples) <= LOUDEST_SAMPLE  # False for NaN
        if not usable.all():
            wrong = int(usable.size - usable.sum())
            samples = np.where(usable, samples, 0)
    return Sound(
        samples.mean(axis=0, dtype=np.float32),
        start_seconds,
        frame.sample_rate,
        float(np.square(samples, dtype=np.float64).sum()) / len(samples) ** 2,
        wrong,
    )


class Levels:
    """What the sound of a file adds up to."""

    def __init__(self) -> None:
        self.peak = self.power = self.unrelated_power = 0.0
        self.samples = self.wrong_samples = 0

    def add(self, piece: Sound) -> None:
        """Reads the next piece."""
        self.peak = max(self.peak, float(np.abs(piece.samples).max(initial=0)))
        self.power += float(np.square(piece.samples, dtype=np.float64).sum())
        self.unrelated_power += piece.unrelated_power
        self.samples += len(piece.samples)
        self.wrong_samples += piece.wrong_samples

    def remarks(self) -> list[str]:
        """What a user may not expect of sound that is there."""
        found = []
        audible = self.unrelated_power > SILENT_BELOW**2 * self.samples
        if audible and self.power < CANCELLED_SHARE * self.unrelated_power:
            found.append(
                "the channels of the sound cancel each other: little is left of their mean"
            )
        elif self.peak < SILENT_BELOW:
            found.append("the sound is digitally silent")
        if self.wrong_samples:
            found.append(
                f"{self.wrong_samples} samples of the sound are not numbers, or far too loud: "
                f"silence is used instead"
            )
        return found

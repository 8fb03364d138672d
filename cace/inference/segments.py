"""The segments of a video file of any length, decoded and encoded as in the pipeline."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cace.extraction.encode import Encoding
from cace.media.store import Frames, as_stored
from cace.media.tracks import UnusableClipError
from cace.media.video import Note, Probe, Segment, read_video
from cace.system.errors import UserError, printable
from cace.system.workers import LostError, in_process

SHORTEST_TAIL_SECONDS = 0.5  # at the end of a video; a shorter one is left out
UNREMARKABLE_SECONDS = 0.1  # a shorter tail or shift comes from how the file was compressed


class VideoSegments:
    """The segments of one video file; iterate over it once.

    frames: fps, short_side, crop and interpolation of the pictures; a model of an earlier version
        does not name its interpolation.
    show_progress: a bar on the terminal.
    deadline_seconds: for decoding one second of the video. With it, a separate process decodes, so
        that a file that hangs or crashes the decoder is only refused. A script that sets this
        needs the usual `if __name__ == "__main__":`.
    """

    def __init__(
        self,
        path: Path,
        frames: dict[str, Any],
        show_progress: bool = False,
        deadline_seconds: float | None = None,
    ) -> None:
        known = [name for name in ("fps", *Frames._fields) if name in frames]
        self.path, self.how = path, {name: frames[name] for name in known}
        self.show_progress, self.deadline_seconds = show_progress, deadline_seconds
        self.decoded = self.picture = self.sound = 0.0  # seconds
        self.damages: Counter[str] = Counter()
        self.noted: list[str] = []

    def __iter__(self) -> Iterator[Segment]:
        """Segments in order, each of them a second; a short tail is left out.

        Raises: UserError if the file is not a video, or has no picture or no sound, or is not
            decoded in time, or is shorter than half a second.
        """
        path, deadline, count = self.path, self.deadline_seconds, 0
        if not os.path.isfile(path):  # noqa: PTH113  # Path.is_file raises for a name too long
            raise UserError(
                f"{path}: expected a file, got {'a folder' if path.is_dir() else 'none'}"
            )
        items = (
            read_video(path, **self.how)
            if deadline is None
            else in_process(read_video, deadline, path, **self.how)
        )
        try:
            probed = next(items)
            assert isinstance(probed, Probe)
            self.probed = probed
            bar = tqdm(
                self._segments(items),
                desc=printable(path.name),
                total=round(probed.seconds) if probed.seconds else None,
                unit="s of video",
                disable=None if self.show_progress else True,
                dynamic_ncols=True,
                leave=False,
            )
            for segment in bar:
                if segment.seconds >= SHORTEST_TAIL_SECONDS:
                    count += 1
                    yield segment
        except UnusableClipError as error:
            raise UserError(f"{path}: {error}; expected a video with picture and sound") from None
        except LostError as error:
            raise UserError(f"{path}: the decoder: {error}; leave this video out") from None
        finally:
            items.close()
        if not count:
            raise UserError(
                f"{path}: expected at least {SHORTEST_TAIL_SECONDS:g} s of video, got "
                + "; ".join([f"{self.decoded:.2f}", *self._about_the_file()])
            )

    def _segments(self, items: Iterator[Any]) -> Iterator[Segment]:
        for item in items:
            if isinstance(item, Segment):
                self.decoded += item.seconds
                self.picture += item.picture_seconds
                self.sound += item.sound_seconds
                yield item
            elif isinstance(item, Note) and item.damage:
                self.damages[item.text] += 1
            elif isinstance(item, Note):
                self.noted.append(item.text)

    @property
    def seconds(self) -> float:
        """Length without a tail that is left out; known after the last segment."""
        return self.decoded - self._left_out

    @property
    def _left_out(self) -> float:
        return self.decoded % 1 if self.decoded % 1 < SHORTEST_TAIL_SECONDS else 0.0

    @property
    def remarks(self) -> list[str]:
        """What a user should know about the file; known after the last segment."""
        remarks = self._about_the_file()
        if self.decoded - self.sound >= 1:
            remarks.append(f"{self.sound:.1f} s of sound: the rest is treated as silence")
        if self.decoded - self.picture >= 1:
            remarks.append(f"{self.picture:.1f} s of picture: the rest repeats its last frame")
        if self._left_out >= UNREMARKABLE_SECONDS:
            remarks.append(f"the last {self._left_out:.2f} s are too short and were left out")
        elif not self._left_out and self.decoded % 1:
            remarks.append(f"the last {self.decoded % 1:.2f} s were filled up to one second")
        if self.probed.starts_at >= UNREMARKABLE_SECONDS:
            remarks.append(
                f"players show {self.probed.starts_at:.2f} s at its start: captions count from "
                f"there, all other times count from 0"
            )
        return remarks

    def _about_the_file(self) -> list[str]:
        damages = [f"damaged {what} ({count} places)" for what, count in self.damages.items()]
        return [*damages, *self.noted]


def encode_segments(
    segments: Sequence[Segment],
    encoding: Encoding,
    jpeg_quality: int,
    device: torch.device,
    *,
    hear: bool = True,
) -> list[tuple[Tensor, Tensor]]:
    """Visual [H, W, V] and audio [A] features of each segment, in the store's precision.

    jpeg_quality: frames are stored as JPEG and read again first, as in the pipeline.
    hear: if not, the result has the sound [S] of each segment instead of audio features.
    """
    stored = [as_stored(some.frames, some.sound, jpeg_quality) for some in segments]
    frames, sound = (np.concatenate(parts) for parts in zip(*stored, strict=True))
    sound = sound.reshape(len(segments), -1)
    seen = encoding.see(frames, len(segments), device)
    heard = encoding.hear(sound, device) if hear else sound
    return [
        (torch.from_numpy(visual).to(device), torch.from_numpy(audio).to(device))
        for visual, audio in zip(seen, heard, strict=True)
    ]

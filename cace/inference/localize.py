"""From a video file of any length to its events: a timeline, one second at a time.

A localizer reads ten segments at once. A longer video is read in windows of ten that overlap by
half; for each second the results of the windows (and of the seeds, if there are several) are
averaged. Picture and sound are processed as in the pipeline, through the stored form of a clip.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from cace.conventions import SEGMENTS
from cace.extraction.encode import Encoding
from cace.features.batches import Silenced
from cace.inference.timeline import Decision, Lane, Timeline, Training
from cace.localizers.parts.protocol import Localizer
from cace.media.store import Frames, as_stored
from cace.media.tracks import UnusableClipError
from cace.media.video import Note, Probe, Segment, read_video
from cace.system.errors import UserError, printable
from cace.system.workers import LostError, in_process

STEP = SEGMENTS // 2  # seconds from one window to the next
SHORTEST_TAIL_SECONDS = 0.5  # at the end of a video; a shorter one is left out
UNREMARKABLE_SECONDS = 0.1  # a shorter tail or shift comes from the encoder, not from the user


class _Window(NamedTuple):
    """Results for the T segments that start at second `start`.

    Relevance and category three times: with both modalities, without sound, without picture.
    """

    start: int
    relevance: Float[np.ndarray, "3 T"]
    category: Float[np.ndarray, "3 T C"]
    attention: Float[np.ndarray, "T H W"] | None
    lanes: dict[str, Float[np.ndarray, " T"]]


class _Length(NamedTuple):
    """Of a video and its tracks, in seconds."""

    seconds: float
    picture: float
    sound: float


class EventLocalizer(NamedTuple):
    """Encoders and trained localizers that belong together; made by `load`."""

    localizers: list[Localizer]  # one per seed
    encoding: Encoding
    categories: tuple[str, ...]
    frames: dict[str, Any]  # fps, short_side, crop, interpolation, jpeg_quality
    device: torch.device
    model: str
    training: Training
    silenced: Silenced | None  # in training, and so here
    identity: str  # hash of all weights and settings

    def localize(
        self,
        video: Path | str,
        show_progress: bool = False,
        deadline_seconds: float | None = None,
    ) -> Timeline:
        """The timeline of a video file of any length and container.

        Memory does not grow with the length, except for the result.
        show_progress: a bar on the terminal.
        deadline_seconds: to decode one second of the video. It is then decoded in a separate
            process, so that a file that hangs or crashes the decoder is only refused. A script
            that sets this needs the usual `if __name__ == "__main__":`.
        Raises: UserError if the file is not a video, or has no picture or no sound, or is not
            decoded in time.
        """
        path = Path(video)
        if not os.path.isfile(path):  # noqa: PTH113  # Path.is_file raises for a name too long
            raise UserError(
                f"{path}: expected a file, got {'a folder' if path.is_dir() else 'none'}"
            )
        # A model of an earlier version does not name its interpolation.
        known = [name for name in ("fps", *Frames._fields) if name in self.frames]
        how = {name: self.frames[name] for name in known}
        damages: Counter[str] = Counter()
        noted: list[str] = []

        def segments() -> Iterator[Segment]:
            for item in items:
                if isinstance(item, Segment):
                    yield item
                elif isinstance(item, Note) and item.damage:
                    damages[item.text] += 1
                elif isinstance(item, Note):
                    noted.append(item.text)

        items = (
            read_video(path, **how)
            if deadline_seconds is None
            else in_process(read_video, deadline_seconds, path, **how)
        )
        try:
            probed = next(items)
            assert isinstance(probed, Probe)
            bar = tqdm(
                segments(),
                desc=printable(path.name),
                total=round(probed.seconds) if probed.seconds else None,
                unit="s of video",
                disable=None if show_progress else True,
                dynamic_ncols=True,
                leave=False,
            )
            length, windows = self._windows(iter(bar))
        except UnusableClipError as error:
            raise UserError(f"{path}: {error}; expected a video with picture and sound") from None
        except LostError as error:
            raise UserError(f"{path}: the decoder: {error}; leave this video out") from None
        finally:
            items.close()
        seconds = length.seconds
        remarks = [f"damaged {what} ({count} places)" for what, count in damages.items()]
        remarks += noted
        if not windows:
            raise UserError(
                f"{path}: expected at least {SHORTEST_TAIL_SECONDS:g} s of video, got "
                + "; ".join([f"{seconds:.2f}", *remarks])
            )
        left_out = seconds % 1 if seconds % 1 < SHORTEST_TAIL_SECONDS else 0.0
        if seconds - length.sound >= 1:
            remarks.append(f"{length.sound:.1f} s of sound: the rest is treated as silence")
        if seconds - length.picture >= 1:
            remarks.append(f"{length.picture:.1f} s of picture: the rest repeats its last frame")
        if left_out >= UNREMARKABLE_SECONDS:
            remarks.append(f"the last {left_out:.2f} s are too short and were left out")
        elif not left_out and seconds % 1:
            remarks.append(f"the last {seconds % 1:.2f} s were filled up to one second")
        if probed.starts_at >= UNREMARKABLE_SECONDS:
            remarks.append(
                f"players show {probed.starts_at:.2f} s at its start: captions count from "
                f"there, all other times count from 0"
            )
        if self.silenced:
            unused = {"audio": "sound", "visual": "picture"}[self.silenced]
            remarks.append(f"the model was trained without {unused}, and does not use it")
        if seconds - left_out < SEGMENTS:
            remarks.append(f"shorter than the {SEGMENTS} s that the model was trained on")
        both, silent_sound, silent_picture = (_decision(windows, i) for i in range(3))
        attended = [window for window in windows if window.attention is not None]
        return Timeline(
            path,
            seconds - left_out,
            self.categories,
            both,
            without_sound=silent_sound,
            without_picture=silent_picture,
            lanes={
                name: Lane(meaning, _average([(w.start, w.lanes[name]) for w in windows]))
                for name, meaning in self.localizers[0].lanes.items()
            },
            attention=_average([(w.start, w.attention) for w in attended]) if attended else None,
            view=probed.view,
            remarks=tuple(remarks),
            model=self.model,
            starts_at=probed.starts_at,
            training=self.training,
        )

    def _windows(self, segments: Iterator[Segment]) -> tuple[_Length, list[_Window]]:
        """Length of the video, and the results of its windows."""
        length, start = _Length(0.0, 0.0, 0.0), 0
        features: list[tuple[Tensor, Tensor]] = []  # of `_encode`, from second `start` on
        waiting: list[Segment] = []  # encoded together: faster than one by one
        windows: list[_Window] = []
        for segment in segments:
            length = _Length(
                length.seconds + segment.seconds,
                length.picture + segment.picture_seconds,
                length.sound + segment.sound_seconds,
            )
            if segment.seconds >= SHORTEST_TAIL_SECONDS:
                waiting.append(segment)
            if len(features) + len(waiting) == SEGMENTS + STEP:
                features += self._encode(waiting)
                waiting = []
                windows.append(self._judge(start, features[:SEGMENTS]))
                start, features = start + STEP, features[STEP:]
        features += self._encode(waiting) if waiting else []
        if len(features) > SEGMENTS:  # a full window, before the one that ends with the video
            windows.append(self._judge(start, features[:SEGMENTS]))
        if features:
            first = max(0, len(features) - SEGMENTS)
            windows.append(self._judge(start + first, features[first:]))
        return length, windows

    def _encode(self, segments: list[Segment]) -> list[tuple[Tensor, Tensor]]:
        """Visual [H, W, V] and audio [A] features of each segment, in the store's precision.

        If the audio encoder reads whole clips, the sound [S] itself: it is encoded with its window.
        """
        quality = self.frames["jpeg_quality"]
        stored = [as_stored(some.frames, some.sound, quality) for some in segments]
        frames, sound = (np.concatenate(parts) for parts in zip(*stored, strict=True))
        sound = sound.reshape(len(segments), -1)
        seen = self.encoding.see("", frames, len(segments), self.device)
        heard = sound if self._hears_windows else self.encoding.hear("", sound, self.device)
        return [
            (torch.from_numpy(visual).to(self.device), torch.from_numpy(audio).to(self.device))
            for visual, audio in zip(seen, heard, strict=True)
        ]

    @property
    def _hears_windows(self) -> bool:
        return self.encoding.audio_encoder.whole_clips

    @torch.inference_mode()
    def _judge(self, start: int, features: list[tuple[Tensor, Tensor]]) -> _Window:
        """Results for up to ten segments, means over the localizers."""
        visual, audio = (torch.stack(some) for some in zip(*features, strict=True))
        if self._hears_windows:
            heard = self.encoding.hear("", audio.cpu().numpy(), self.device)
            audio = torch.from_numpy(heard).to(self.device)
        visual = torch.stack([visual, visual, torch.zeros_like(visual)])
        audio = torch.stack([audio, torch.zeros_like(audio), audio])
        if self.silenced == "visual":
            visual = torch.zeros_like(visual[:, :, :1, :1])  # one position, as in training
        elif self.silenced == "audio":
            audio = torch.zeros_like(audio)
        found = []
        for localizer in self.localizers:
            precision = next(localizer.parameters()).dtype
            found.append(localizer(visual.to(precision), audio.to(precision)))
        category = _mean([out.class_logits.softmax(dim=-1) for out in found])
        attention = [out.attention[0] for out in found if out.attention is not None]
        attention = attention if self.silenced is None else []
        window = _Window(
            start,
            _mean([out.relevance.sigmoid() for out in found]),
            np.broadcast_to(category, (3, len(features), category.shape[-1])),
            _mean(attention) if attention else None,
            {name: _mean([o.extra[name][0] for o in found]) for name in self.localizers[0].lanes},
        )
        if not (np.isfinite(window.relevance).all() and np.isfinite(window.category).all()):
            raise UserError(f"{self.model}: gives no numbers (NaN); are its weights damaged?")
        return window


def _mean(values: list[Tensor]) -> Float[np.ndarray, "..."]:
    """Over the seeds."""
    return torch.stack([value.float() for value in values]).mean(dim=0).cpu().numpy()


def _decision(windows: list[_Window], which: int) -> Decision:
    return Decision(
        _average([(w.start, w.relevance[which]) for w in windows]),
        _average([(w.start, w.category[which]) for w in windows]),
    )


def _average(windows: list[tuple[int, Any]]) -> Float[np.ndarray, "S ..."]:
    """The mean of each second over the windows that contain it."""
    last_start, last = windows[-1]
    total = np.zeros((last_start + len(last), *last.shape[1:]))
    count = np.zeros((len(total), *[1] * (last.ndim - 1)))
    for start, values in windows:
        total[start : start + len(values)] += values
        count[start : start + len(values)] += 1
    return (total / count).astype(np.float32)

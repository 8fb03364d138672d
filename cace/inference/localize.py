"""From a video file of any length to its events: a timeline, one second at a time.

A localizer reads ten segments at once. A longer video is read in windows of ten that overlap by
half; for each second the results of the windows (and of the seeds, if there are several) are
averaged. Picture and sound are processed as in the pipeline, through the stored form of a clip.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cace.conventions import SEGMENTS
from cace.extraction.encode import Encoding, TooLargeError
from cace.features.batches import Silenced
from cace.inference.segments import VideoSegments, encode_segments
from cace.inference.timeline import Decision, Lane, Timeline, Training
from cace.localizers.parts.protocol import Localizer
from cace.media.video import Segment
from cace.system.errors import UserError

STEP = SEGMENTS // 2  # seconds from one window to the next


class _Window(NamedTuple):
    """Results for the T segments that start at second `start`.

    Relevance and category three times: with both modalities, without sound, without picture.
    """

    start: int
    relevance: Float[np.ndarray, "3 T"]
    category: Float[np.ndarray, "3 T C"]
    attention: Float[np.ndarray, "T H W"] | None
    lanes: dict[str, Float[np.ndarray, " T"]]


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
        segments = VideoSegments(path, self.frames, show_progress, deadline_seconds)
        try:
            windows = self._windows(iter(segments))
        except TooLargeError as error:
            raise UserError(f"{path}: {error}") from error
        remarks = segments.remarks
        if self.silenced:
            unused = {"audio": "sound", "visual": "picture"}[self.silenced]
            remarks.append(f"the model was trained without {unused}, and does not use it")
        if segments.seconds < SEGMENTS:
            remarks.append(f"shorter than the {SEGMENTS} s that the model was trained on")
        both, silent_sound, silent_picture = (_decision(windows, i) for i in range(3))
        attended = [window for window in windows if window.attention is not None]
        return Timeline(
            path,
            segments.seconds,
            self.categories,
            both,
            without_sound=silent_sound,
            without_picture=silent_picture,
            lanes={
                name: Lane(meaning, _average([(w.start, w.lanes[name]) for w in windows]))
                for name, meaning in self.localizers[0].lanes.items()
            },
            attention=_average([(w.start, w.attention) for w in attended]) if attended else None,
            view=segments.probed.view,
            remarks=tuple(remarks),
            model=self.model,
            starts_at=segments.probed.starts_at,
            training=self.training,
        )

    def _windows(self, segments: Iterator[Segment]) -> list[_Window]:
        """The results of all windows of a video."""
        start = 0
        features: list[tuple[Tensor, Tensor]] = []  # of `_encode`, from second `start` on
        waiting: list[Segment] = []  # encoded together: faster than one by one
        windows: list[_Window] = []
        for segment in segments:
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
        return windows

    def _encode(self, segments: list[Segment]) -> list[tuple[Tensor, Tensor]]:
        """Visual [H, W, V] and audio [A] features of each segment, in the store's precision.

        If the audio encoder reads whole clips, the sound [S] itself: it is encoded with its window.
        """
        return encode_segments(
            segments,
            self.encoding,
            self.frames["jpeg_quality"],
            self.device,
            hear=not self._hears_windows,
        )

    @property
    def _hears_windows(self) -> bool:
        return self.encoding.audio_encoder.whole_clips

    @torch.inference_mode()
    def _judge(self, start: int, features: list[tuple[Tensor, Tensor]]) -> _Window:
        """Results for up to ten segments, means over the localizers."""
        visual, audio = (torch.stack(some) for some in zip(*features, strict=True))
        if self._hears_windows:
            heard = self.encoding.hear(audio.cpu().numpy(), self.device)
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

"""Finds in a video the window of one modality that best fits a given window of the other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cace.conventions import SEGMENTS
from cace.extraction.encode import Encoding, TooLargeError
from cace.inference.models import encoders_of, encoding_of, lacks
from cace.inference.segments import VideoSegments, encode_segments
from cace.inference.timeline import SOURCES, Training
from cace.matching import checkpoints
from cace.matching.protocol import Matcher, Modality
from cace.system.device import choose_device
from cace.system.errors import UserError
from cace.system.files import expect_file

NAMES: dict[Modality, str] = {"audio": "sound", "visual": "picture"}  # in messages
LIMITS = (
    "It compares windows of this video with one another. It does not say whether any of them "
    "belongs to the given one: there is always a best window, even where nothing fits. It knows "
    "whole seconds, and what its training clips taught it."
)


class Window(NamedTuple):
    """A part of a video, and how well it fits the given one."""

    start: int  # seconds
    end: int  # seconds, exclusive
    fit: float  # higher is better


class Match(NamedTuple):
    """How well each window of a video fits the given one."""

    file: Path
    seconds: float  # length that was processed; the last second may be incomplete
    given: Modality
    start: int  # of the given window, in seconds
    end: int  # exclusive
    fits: Float[np.ndarray, " W"]  # of the other modality's window that starts at each second
    fit_means: str  # what a fit is, in words
    remarks: tuple[str, ...]
    model: str  # in one line
    training: Training
    starts_at: float  # seconds that players show at its start, where times here are 0

    @property
    def windows(self) -> list[Window]:
        """All windows, the best first; equal ones in the order of time."""
        length = self.end - self.start
        order = np.argsort(-self.fits, kind="stable").tolist()
        return [Window(start, start + length, float(self.fits[start])) for start in order]

    @property
    def rank(self) -> int:
        """Place of the window of the same seconds among all, counted from 1."""
        return [window.start for window in self.windows].index(self.start) + 1

    @property
    def sentence(self) -> str:
        """The result in words."""
        best = self.windows[0]
        given, searched = NAMES[self.given], NAMES[self.searched]
        return (
            f"{given} {self.start}-{self.end} s: the {searched} that fits best is "
            f"{best.start}-{best.end} s; that of the same seconds is number {self.rank} of "
            f"{len(self.fits)}"
        )

    @property
    def searched(self) -> Modality:
        """The modality of the windows."""
        return "visual" if self.given == "audio" else "audio"


class VideoMatcher(NamedTuple):
    """Encoders and trained matchers that belong together; made by `load_matcher`."""

    matchers: list[Matcher]  # one per seed
    encoding: Encoding
    frames: dict[str, Any]  # fps, short_side, crop, jpeg_quality
    device: torch.device
    model: str
    training: Training

    def match(
        self,
        video: Path | str,
        given: Modality,
        start: int,
        end: int,
        show_progress: bool = False,
        deadline_seconds: float | None = None,
    ) -> Match:
        """The fit of every window of the other modality, a mean over the seeds.

        given: the modality of the seconds from `start` to `end`, exclusive.
        show_progress, deadline_seconds: as in `VideoSegments`.
        Raises: UserError if the video cannot be read, does not contain the window, or is not
            longer than it.
        """
        path = Path(video)
        segments = VideoSegments(path, self.frames, show_progress, deadline_seconds)
        try:
            visual, audio = self._features(segments)
        except TooLargeError as error:
            raise UserError(f"{path}: {error}") from error
        if not 0 <= start < end <= len(audio):
            raise UserError(
                f"{path}: expected a window within its {len(audio)} seconds, as START-END with "
                f"START < END, got {start}-{end}"
            )
        if end - start == len(audio):
            raise UserError(
                f"{path}: the window is as long as the video, so there is nothing to choose from; "
                f"give a shorter one"
            )
        pair = (audio, visual) if given == "audio" else (visual, audio)
        with torch.inference_mode():
            fits = [one.fits(pair[0][start:end], pair[1], given) for one in self.matchers]
        mean = torch.stack(fits).mean(dim=0).cpu().numpy()
        if not np.isfinite(mean).all():
            raise UserError(f"{self.model}: gives no numbers (NaN); are its weights damaged?")
        remarks = segments.remarks
        if end - start >= SEGMENTS:
            remarks.append(f"the window is longer than any event in a clip of {SEGMENTS} s")
        return Match(
            path,
            segments.seconds,
            given,
            start,
            end,
            mean,
            self.matchers[0].fit_means,
            tuple(remarks),
            self.model,
            self.training,
            segments.probed.starts_at,
        )

    def _features(self, segments: VideoSegments) -> tuple[Tensor, Tensor]:
        """Visual [S, V], means over the grid, and audio [S, A]."""
        pairs = [
            (visual.float().mean(dim=(0, 1)), audio.float())
            for some in _in_tens(segments)
            for visual, audio in encode_segments(
                some, self.encoding, self.frames["jpeg_quality"], self.device
            )
        ]
        visual, audio = (torch.stack(values) for values in zip(*pairs, strict=True))
        return visual, audio


def _in_tens(segments: VideoSegments) -> Iterator[list[Any]]:
    """Groups of ten: encoding several segments at once is faster."""
    waiting = []
    for segment in segments:
        waiting.append(segment)
        if len(waiting) == SEGMENTS:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def load_matcher(path: Path | str, encoder: Path | str | None = None) -> VideoMatcher:
    """Trained matchers with the encoders that they need.

    path: a cell of matching/dvc.yaml, whose seeds are averaged, or one checkpoint.
    encoder: the fine-tuned visual encoder; by default the `visual_encoder.pt` in a folder above
        the model, or in a subfolder `models` of one.
    Raises: UserError if a file is missing or damaged, or the encoders are not those of training.
    """
    path = expect_file(Path(path), made_by=checkpoints.MADE_BY)
    files = [path] if path.is_file() else sorted(path.glob("seed-*.pt"))
    if not files:
        raise UserError(
            f"{path}: expected seed-<n>.pt in it, got none; run `dvc repro {checkpoints.MADE_BY}`"
        )
    read = [checkpoints.read(file) for file in files]
    about, first = read[0].about, read[0].matcher
    kinds = [(one.name, one.about.get("encoders"), one.about.get("frames")) for one in read]
    if any(kind != kinds[0] for kind in kinds):
        raise UserError(
            f"{path}: its seeds are of different matchers, encoders or frames; name one of them"
        )
    if lacking := lacks(about, ["encoders"]):
        raise UserError(f"{path}: does not name {', '.join(lacking)} of its training")
    visual, audio, _, frames = encoders_of(about, path, Path(encoder) if encoder else None)
    if (got := (visual.channels, audio.channels)) != first.channels:
        raise UserError(
            f"{path}: expects features of {tuple(first.channels)} channels, its encoders give {got}"
        )
    device = choose_device()
    title = f"{first.title}, a reconstruction" if first.reconstruction else first.title
    return VideoMatcher(
        [one.matcher.to(device) for one in read],
        encoding_of(visual, audio, frames, device),
        frames,
        device,
        f"{path}: {len(files)} matcher{'s' * (len(files) > 1)} ({title}), trained on "
        f"{SOURCES.get(about.get('source', ''), 'an unknown source')}",
        Training(about.get("source")),
    )

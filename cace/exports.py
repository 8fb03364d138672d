"""Timelines as files for other programs: JSON, CSV, WebVTT captions, Audacity labels, a page."""

import html
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cace.annotations import Line, read_lines
from cace.errors import UserError, listed
from cace.inference import Decision, TimedEvent, Timeline
from cace.report.video import video_page
from cace.workspace import write_atomically

DIGITS = 4  # of what is written; seeds differ in the second
ENDINGS = {"json": ".json", "csv": ".csv", "vtt": ".vtt", "audacity": ".txt", "html": ".html"}
VIDEO_SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
    *(".wmv", ".flv", ".3gp", ".ogv"),
}


def videos(paths: Sequence[Path]) -> list[Path]:
    """The files, and the videos that lie in the folders, each once and in order.

    Raises: UserError where a path is not there, or a folder holds no video.
    """
    files: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        if not path.is_dir():
            files[path] = None
            continue
        inside = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file()
        )
        if not inside:
            raise UserError(f"{path}: expected videos in it, found none")
        files.update(dict.fromkeys(inside))
    return list(files)


class Writer:
    """Writes the files of each of several videos into one folder.

    formats: keys of ENDINGS.
    embed: whether the page holds the video; otherwise it links to where the video lies.
    truth: a folder in the AVE layout; its events of a file's name are shown on the page.
    Raises: UserError where `truth` is no such folder.
    """

    def __init__(
        self,
        folder: Path | None,
        formats: Sequence[str],
        files: Sequence[Path],
        embed: bool = False,
        truth: Path | None = None,
    ) -> None:
        self.folder, self.formats, self.embed = folder, formats, embed
        self.truth = _read_truth(truth) if truth else None
        self.twice = {stem for stem, n in Counter(file.stem for file in files).items() if n > 1}
        self.used: Counter[str] = Counter()

    def write(self, timeline: Timeline, events: list[TimedEvent], threshold: float) -> list[Path]:
        """Writes all formats for one video, whole or not at all; returns the files."""
        assert self.folder is not None
        name = self._name(timeline.file)
        written = []
        for kind in self.formats:
            path = self.folder / f"{name}{ENDINGS[kind]}"
            write_atomically(path, self._content(kind, timeline, events, threshold))
            written.append(path)
        return written

    def _name(self, file: Path) -> str:
        """The video's name without its ending, unless several videos would share it."""
        name = file.name if file.stem in self.twice else file.stem
        self.used[name] += 1
        return name if self.used[name] == 1 else f"{name}-{self.used[name]}"

    def _content(
        self, kind: str, timeline: Timeline, events: list[TimedEvent], threshold: float
    ) -> str:
        assert self.folder is not None
        if kind == "json":
            return to_json(timeline, events, threshold)
        if kind == "csv":
            return to_csv(events)
        if kind == "vtt":
            return to_vtt(events)
        if kind == "audacity":
            return to_audacity(events)
        return video_page(
            timeline,
            threshold=threshold,
            truth=self._truth(timeline.file.stem),
            embed=self.embed,
            link=os.path.relpath(timeline.file.resolve(), self.folder.resolve()),
        )

    def _truth(self, id_: str) -> list[TimedEvent] | None:
        if self.truth is None:
            return None
        return [
            TimedEvent(line.category, float(line.start), float(line.end), 1.0)
            for line in self.truth
            if line.id == id_
        ]


def _read_truth(folder: Path) -> list[Line]:
    problems: list[str] = []
    lines = read_lines(folder / "Annotations.txt", problems)
    if problems:
        raise UserError(f"{folder}: {len(problems)} problems in the annotations:{listed(problems)}")
    return lines


def to_table(events: list[TimedEvent]) -> pd.DataFrame:
    """One row an event: start and end in seconds, category, confidence."""
    return pd.DataFrame(
        [(event.start, event.end, event.category, event.confidence) for event in events],
        columns=["start", "end", "category", "confidence"],
    ).round(DIGITS)


def to_csv(events: list[TimedEvent]) -> str:
    """The table as CSV."""
    return to_table(events).to_csv(index=False)


def to_json(timeline: Timeline, events: list[TimedEvent], threshold: float) -> str:
    """All that is known: events, and for each second what was said with both modalities and one.

    `relevance`, `gate`: [S]; `category`: [S][C]; `attention`: [S][H][W] or null.
    """
    content = {
        "file": str(timeline.file),
        "seconds": round(timeline.seconds, 3),
        "model": timeline.model,
        "threshold": threshold,
        "remarks": timeline.remarks,
        "categories": timeline.categories,
        "events": to_table(events).to_dict("records"),
        **_plain(timeline.decision),
        "gate": _numbers(timeline.gate),
        "without_sound": _plain(timeline.without_sound),
        "without_picture": _plain(timeline.without_picture),
        "view": _numbers(np.array(timeline.view)),
        "attention": None if timeline.attention is None else _numbers(timeline.attention),
    }
    return json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(decision: Decision) -> dict[str, Any]:
    return {"relevance": _numbers(decision.relevance), "category": _numbers(decision.category)}


def _numbers(values: np.ndarray) -> list[Any]:
    return values.astype(float).round(DIGITS).tolist()


def to_vtt(events: list[TimedEvent]) -> str:
    """Captions that any player shows; the confidence in percent."""
    cues = [
        f"{_clock(event.start)} --> {_clock(event.end)}\n"
        f"{html.escape(_one_line(event.category), quote=False)} ({event.confidence:.0%})\n"
        for event in events
    ]
    return "\n".join(["WEBVTT\n", *cues])


def to_audacity(events: list[TimedEvent]) -> str:
    """A label track: start, end and text, separated by tabs."""
    return "".join(
        f"{event.start:.6f}\t{event.end:.6f}\t{_one_line(event.category)}\n" for event in events
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _clock(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}.{rest % 1000:03}"

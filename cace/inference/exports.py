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

from cace.conventions import VIDEO_ENDINGS
from cace.data.annotations import Line, read_lines
from cace.inference.page import video_page
from cace.inference.timeline import Decision, TimedEvent, Timeline
from cace.system.errors import UserError, listed
from cace.system.files import write_atomically

DIGITS = 4  # after the point, in the files; seeds differ in the second
ENDINGS = {"json": ".json", "csv": ".csv", "vtt": ".vtt", "audacity": ".txt", "html": ".html"}
MOST_EMBEDDED = 200_000_000  # bytes of a video in a page: browsers give up on larger ones


def videos(paths: Sequence[Path]) -> list[Path]:
    """The files, and the videos in the folders, each once and in order.

    Raises: UserError if a path does not exist, or a folder contains no video.
    """
    files: dict[Path, Path] = {}  # by their resolved paths
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        inside = [path]
        if path.is_dir():
            inside = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in VIDEO_ENDINGS
                and file.is_file()
                and not file.name.startswith("._")  # macOS writes these beside files
            )
        if not inside:
            raise UserError(f"{path}: expected videos in it, found none")
        for file in inside:
            files.setdefault(file.resolve(), file)
    return list(files.values())


class Writer:
    """Writes the files of each of several videos into one folder.

    formats: keys of ENDINGS.
    embed: whether the page contains the video; otherwise it links to it.
    truth: a folder in the AVE layout; the page shows its events for a file's name.
    overwrite: whether existing files may be replaced.
    Raises: UserError if `truth` is no such folder, a video is too large to embed, the folder
        cannot be created, or a file exists already.
    """

    def __init__(
        self,
        folder: Path,
        formats: Sequence[str],
        files: Sequence[Path],
        *,
        embed: bool = False,
        truth: Path | None = None,
        overwrite: bool = False,
    ) -> None:
        self.folder, self.formats, self.embed = folder, formats, embed
        self.truth = _read_truth(truth) if truth else None
        self.names = dict(zip(files, _names(files), strict=True))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot create this folder: {error.strerror}") from None
        large = [str(file) for file in files if file.stat().st_size > MOST_EMBEDDED]
        if embed and "html" in formats and large:
            raise UserError(
                f"too large for a page, at most {MOST_EMBEDDED / 1e6:g} MB; without --embed "
                f"the page links to them:{listed(large)}"
            )
        inputs = {file.resolve() for file in files}
        there = [
            str(path)
            for file in files
            for path in self._paths(file).values()
            if path.exists() and (not overwrite or path.resolve() in inputs)
        ]
        if there:
            raise UserError(
                f"these files exist already; choose another folder, or replace them (all but "
                f"videos) with --overwrite:"
                f"{listed(there)}"
            )

    def write(self, timeline: Timeline, events: list[TimedEvent], threshold: float) -> list[Path]:
        """Writes all formats for one video, each completely or not at all; returns the files."""
        paths = self._paths(timeline.file)
        for kind, path in paths.items():
            write_atomically(path, self._content(kind, timeline, events, threshold))
        return list(paths.values())

    def _paths(self, file: Path) -> dict[str, Path]:
        name = self.names[file]
        return {kind: self.folder / f"{name}{ENDINGS[kind]}" for kind in self.formats}

    def _content(
        self, kind: str, timeline: Timeline, events: list[TimedEvent], threshold: float
    ) -> str:
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
            events=events,
            truth=self._truth(timeline.file.stem),
            embed=self.embed,
            link=os.path.relpath(timeline.file.absolute(), self.folder.absolute()),
        )

    def _truth(self, id_: str) -> list[TimedEvent] | None:
        if self.truth is None or all(line.id != id_ for line in self.truth):
            return None
        return [
            TimedEvent(line.category, float(line.start), float(line.end), 1.0)
            for line in self.truth
            if line.id == id_
        ]


def _names(files: Sequence[Path]) -> list[str]:
    """Each video's name without its ending; with it, and numbered, if several share it."""
    stems, names, used = Counter(file.stem for file in files), [], Counter[str]()
    for file in files:
        name = file.stem if stems[file.stem] == 1 else file.name
        used[name] += 1
        names.append(name if used[name] == 1 else f"{name}-{used[name]}")
    return names


def _read_truth(folder: Path) -> list[Line]:
    problems: list[str] = []
    lines = read_lines(folder / "Annotations.txt", problems)
    if problems:
        raise UserError(f"{folder}: {len(problems)} problems in the annotations:{listed(problems)}")
    return lines


def to_table(events: list[TimedEvent]) -> pd.DataFrame:
    """One row per event: start and end in seconds, category, confidence."""
    return pd.DataFrame(
        [(event.start, event.end, event.category, event.confidence) for event in events],
        columns=["start", "end", "category", "confidence"],
    ).round(DIGITS)


def to_csv(events: list[TimedEvent]) -> str:
    """The table as CSV."""
    return to_table(events).to_csv(index=False)


def to_json(timeline: Timeline, events: list[TimedEvent], threshold: float) -> str:
    """All results: events, and for each second the decision with both modalities and with one.

    `relevance`, and what else the method knows (`gate` of CACE-Net and CMBS): [S]; `category`:
    [S][C]; `attention`: [S][H][W] or null.
    """
    content = {
        "file": os.fsencode(timeline.file).decode(errors="replace"),
        "seconds": round(timeline.seconds, 3),
        "model": timeline.model,
        "threshold": threshold,
        "remarks": timeline.remarks,
        "categories": timeline.categories,
        "events": to_table(events).to_dict("records"),
        **_plain(timeline.decision),
        **{name: _numbers(lane.values) for name, lane in timeline.lanes.items()},
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


def shown(events: list[TimedEvent]) -> str:
    """The table for a terminal."""
    table = to_table([event._replace(category=_one_line(event.category)) for event in events])
    return table.to_markdown(index=False, disable_numparse=[2])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _clock(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}.{rest % 1000:03}"

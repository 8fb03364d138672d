"""Timelines as files for other programs: JSON, CSV, WebVTT captions, Audacity labels, a page."""

import hashlib
import html
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cace import __version__
from cace.conventions import VIDEO_ENDINGS
from cace.data.annotations import Line, read_lines
from cace.data.sources.folder import id_of
from cace.inference.page import video_page
from cace.inference.timeline import Decision, TimedEvent, Timeline
from cace.system.errors import UserError, listed
from cace.system.files import expect_writable, write_atomically
from cace.system.tables import markdown, spreadsheet

DIGITS = 4  # after the point, in the files; seeds differ in the second
ENDINGS = {"json": ".json", "csv": ".csv", "vtt": ".vtt", "audacity": ".txt", "html": ".html"}
RECORD = ".cace-localize.jsonl"  # in the folder: what was written with which inputs
MOST_NAME_BYTES = 255  # of a file's name on most file systems; some allow less
MOST_EMBEDDED = 200_000_000  # bytes of a video in a page: browsers give up on larger ones
# Files that users may take for videos, but that are not read: without sound, without picture, or
# in a container that is not read.
OTHER_SUFFIXES = {
    *(".gif", ".webp", ".apng", ".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus", ".wma"),
    *(".rm", ".rmvb", ".m2v", ".h264", ".h265", ".y4m", ".wtv", ".swf", ".nut"),
}


def videos(paths: Sequence[Path], left_out: list[str] | None = None) -> list[Path]:
    """The files, and the videos in the folders and their subfolders, each once and in order.

    left_out: gets what users may miss: folders that cannot be read, links that lead nowhere, and
        media that are not videos.
    Raises: UserError if a path does not exist, or a folder contains no video.
    """
    left_out = [] if left_out is None else left_out
    files: dict[Path, Path] = {}  # by their resolved paths
    for path in paths:
        try:
            there = path.exists()
        except OSError as error:  # a name that is too long, a folder that may not be read
            raise UserError(f"{path}: {error.strerror}") from None
        if not there:
            raise UserError(f"{path}: no such file or folder")
        inside = [path]
        if path.is_dir():
            inside = _inside(path, left_out)
        if not inside:
            raise UserError(f"{path}: expected videos in it, found none{listed(left_out)}")
        for file in inside:
            files.setdefault(file.resolve(), file)
    return list(files.values())


def _inside(folder: Path, left_out: list[str]) -> list[Path]:
    """The videos under a folder, also in linked subfolders; links in a circle end."""
    found, visited = [], set()

    def cannot_read(error: OSError) -> None:
        left_out.append(f"{error.filename}: {error.strerror}")

    for place, subfolders, names in os.walk(folder, onerror=cannot_read, followlinks=True):
        if (here := os.path.realpath(place)) in visited:
            subfolders.clear()
            continue
        visited.add(here)
        for name in names:
            file = Path(place, name)
            if name.startswith("._"):  # macOS writes these beside files
                continue
            if file.suffix.lower() in VIDEO_ENDINGS:
                if file.is_file():
                    found.append(file)
                else:
                    left_out.append(f"{file}: not a file: a pipe, or a link that leads nowhere")
            elif file.suffix.lower() in OTHER_SUFFIXES:
                left_out.append(f"{file}: not a video, or in a container that is not read")
    return sorted(found)


class Writer:
    """Writes the files of each of several videos into one folder.

    A record in the folder contains the inputs that a video's files were made from, so that an
    interrupted run continues.

    formats: keys of ENDINGS.
    made_with: plain values on which the results depend, besides the videos: model and settings.
    embed: whether the page contains the video; otherwise it links to it.
    truth: a folder in the AVE layout; the page shows its events for a file's name.
    overwrite: whether existing files may be replaced.
    Raises: UserError if `truth` is no such folder, a video is too large to embed, the folder
        cannot be created or written to, or has files that were not made from the same inputs.
    """

    def __init__(
        self,
        folder: Path,
        formats: Sequence[str],
        files: Sequence[Path],
        *,
        made_with: dict[str, Any] | None = None,
        embed: bool = False,
        truth: Path | None = None,
        overwrite: bool = False,
    ) -> None:
        self.folder, self.formats, self.embed = folder, formats, embed
        self.truth = _read_truth(truth) if truth else None
        expect_writable(folder)
        most_bytes = most_name_bytes(folder, ENDINGS.values())
        self.names = dict(zip(files, _names(files, most_bytes), strict=True))
        sizes = {file: _size(file) for file in files}
        large = [str(file) for file in files if sizes[file] > MOST_EMBEDDED]
        if embed and "html" in formats and large:
            raise UserError(
                f"too large for a page, at most {MOST_EMBEDDED / 1e6:g} MB; without --embed "
                f"the page links to them:{listed(large)}"
            )
        self.keys = {file: self._key(file, made_with or {}) for file in files}
        if is_no_file(folder / RECORD):
            raise UserError(f"{folder / RECORD}: expected a file; remove it, or choose a folder")
        record = _read_record(folder / RECORD)
        self.finished: set[Path] = set()
        there = []
        inputs = {os.path.realpath(file) for file in files}
        for file in files:
            paths = list(self.paths(file).values())
            present = [path for path in paths if os.path.lexists(path)]
            key, state = record.get(self.names[file], ("", ""))
            equal = key == self.keys[file]
            if equal and state == "finished" and present == paths and not overwrite:
                self.finished.add(file)
                continue
            ours = overwrite or (equal and state == "begun")
            there += [
                str(path)
                for path in present
                if not ours or is_no_file(path) or os.path.realpath(path) in inputs
            ]
        if there:
            raise UserError(
                f"these files exist already; choose another folder, or replace them (all but "
                f"videos and folders) with --overwrite:{listed(there)}"
            )

    def write(self, timeline: Timeline, events: list[TimedEvent], threshold: float) -> list[Path]:
        """Writes all formats for one video, each completely or not at all; returns the files.

        Raises: OSError that names the file, or the folder.
        """
        paths = self.paths(timeline.file)
        self._note(timeline.file, "begun")
        for kind, path in paths.items():
            write_atomically(path, self._content(kind, timeline, events, threshold))
        self._note(timeline.file, "finished")
        return list(paths.values())

    def paths(self, file: Path) -> dict[str, Path]:
        """The files of one video, by format."""
        name = self.names[file]
        return {kind: self.folder / f"{name}{ENDINGS[kind]}" for kind in self.formats}

    def _key(self, file: Path, made_with: dict[str, Any]) -> str:
        """Hash of all that shapes the files of a video; its content is known by size and time."""
        try:
            status = file.stat()
        except OSError:  # it is gone; the error is reported when its turn comes
            return ""
        truth = [event._asdict() for event in self._truth(id_of(file)) or []]
        parts = (
            *(os.fsencode(file.resolve()).hex(), status.st_size, status.st_mtime_ns),
            *(made_with, self.embed, truth, __version__),
        )
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _note(self, file: Path, state: str) -> None:
        """Adds a line to the record; it starts a new one, as a full disk may have cut the last."""
        line = json.dumps([self.names[file], self.keys[file], state])
        try:
            with (self.folder / RECORD).open("a", encoding="utf-8") as record:
                record.write(f"\n{line}")
        except OSError as error:
            error.filename = str(self.folder / RECORD)  # a full disk names no file
            raise

    def _content(
        self, kind: str, timeline: Timeline, events: list[TimedEvent], threshold: float
    ) -> str:
        if kind == "json":
            return to_json(timeline, events, threshold)
        if kind == "csv":
            return to_csv(events)
        if kind == "vtt":
            return to_vtt(events, timeline.starts_at)
        if kind == "audacity":
            return to_audacity(events)
        return video_page(
            timeline,
            threshold=threshold,
            events=events,
            truth=self._truth(id_of(timeline.file)),
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


def is_no_file(path: Path) -> bool:
    """Whether something else is there: a folder, a pipe."""
    return path.exists() and not path.is_file()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # it is gone; the error is reported when its turn comes
        return 0


def most_name_bytes(folder: Path, endings: Iterable[str]) -> int:
    """Of a file's name in this folder, without its ending, which is one of these."""
    most = MOST_NAME_BYTES
    if hasattr(os, "pathconf"):
        most = min(most, os.pathconf(folder, "PC_NAME_MAX"))
    return most - max(map(len, endings))


def _names(files: Sequence[Path], most_bytes: int) -> list[str]:
    """Each video's name without its ending; with it, and numbered, if several share it.

    A name that is too long for the folder is cut.
    """
    stems, names = Counter(file.stem for file in files), list[str]()
    used = set[str]()
    for file in files:
        whole = file.stem if stems[file.stem] == 1 else file.name
        name, number = cut_name(whole, most_bytes), 1
        while name in used:
            number += 1
            name = cut_name(whole, most_bytes - len(f"-{number}")) + f"-{number}"
        used.add(name)
        names.append(name)
    return names


def cut_name(name: str, most_bytes: int) -> str:
    """The beginning of a name, in at most so many bytes."""
    while len(os.fsencode(name)) > most_bytes:
        name = name[:-1]
    return name


def _read_record(path: Path) -> dict[str, tuple[str, str]]:
    """For each name the last key and state; lines that are not complete are left out."""
    record: dict[str, tuple[str, str]] = {}
    if not path.exists():
        return record
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            name, key, state = json.loads(line)
            record[name] = (key, state)
        except (TypeError, ValueError, RecursionError):
            continue
    return record


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
    """The table as CSV for spreadsheets."""
    return spreadsheet(to_table(events))


def to_json(timeline: Timeline, events: list[TimedEvent], threshold: float) -> str:
    """All results: events, and for each second the decision with both modalities and with one.

    `relevance`, and other values of the method (`gate` of CACE-Net and CMBS): [S]; `category`:
    [S][C]; `attention`: [S][H][W] or null.
    """
    content = {
        "file": os.fsencode(timeline.file).decode(errors="replace"),
        "seconds": round(timeline.seconds, 3),
        "starts_at": round(timeline.starts_at, 3),
        "model": timeline.model,
        "source": timeline.training.source,
        "trained_categories": timeline.training.categories,
        "warning": timeline.training.warning,
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


def to_vtt(events: list[TimedEvent], starts_at: float = 0.0) -> str:
    """Captions that any player shows; the confidence in percent.

    starts_at: seconds that players show at the start of the video.
    """
    cues = [
        f"{_clock(starts_at + event.start)} --> {_clock(starts_at + event.end)}\n"
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
    return markdown(
        to_table([event._replace(category=_one_line(event.category)) for event in events])
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _clock(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}.{rest % 1000:03}"

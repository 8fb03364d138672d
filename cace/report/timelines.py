"""Clips as pages show them: ten frames, the truth, what localizers predict, where they look."""

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from PIL import Image

from cace.conventions import SEGMENTS
from cace.media.store import ClipStore

SIDE = 128  # pixels of a shown frame, at most: a page with many of them stays small
JPEG_QUALITY = 80
VEIL = 0.75  # opacity over a place without attention


class Stretch(NamedTuple):
    """Seconds in a row with one label."""

    label: str
    seconds: int
    right: bool


class Look(NamedTuple):
    """Where the localizer looked in one segment."""

    veil: str  # data URL of a picture over the frame: dark where it did not look
    x: float  # of the peak, percent of the frame's width
    y: float
    description: str


class Track(NamedTuple):
    """What one localizer predicts for a clip."""

    name: str
    stretches: list[Stretch]
    relevance: list[float]  # probability, one per segment
    right: int  # segments
    looks: list[Look] | None  # one per segment; None if sound does not guide vision


class Clip(NamedTuple):
    """A clip to show."""

    id: str
    category: str
    truth: list[Stretch]
    frames: list[str] | None  # data URLs, one per segment; None if the source has no pictures
    tracks: list[Track]


def show_clips(
    places: Sequence[int],
    tables: Mapping[str, pd.DataFrame],
    attention: Mapping[str, Float[np.ndarray, "n T H W"] | None],
    clips: ClipStore | None,
) -> list[Clip]:
    """Samples of a split, at its places.

    tables: for each track its `prediction_table` of the complete split.
    attention: of tracks whose maps are to be shown, at the same places.
    """
    shown = []
    for k, place in enumerate(places):
        rows = {
            name: table.iloc[place * SEGMENTS : (place + 1) * SEGMENTS]
            for name, table in tables.items()
        }
        maps = {name: all_[k] for name, all_ in attention.items() if all_ is not None}
        shown.append(_clip(rows, maps, clips))
    return shown


def _clip(
    tables: Mapping[str, pd.DataFrame],
    attention: Mapping[str, Float[np.ndarray, "T H W"]],
    clips: ClipStore | None,
) -> Clip:
    first = next(iter(tables.values()))
    id_, actual = str(first["id"].iloc[0]), list(first["actual"])
    events = [label for label in actual if label != "background"]
    return Clip(
        id=id_,
        category=events[0] if events else "background",
        truth=_stretches(actual, actual),
        frames=None if clips is None else _frames(clips, id_),
        tracks=[
            Track(
                name,
                _stretches(list(rows["predicted"]), actual),
                list(rows["relevance"]),
                int((rows["predicted"] == rows["actual"]).sum()),
                [_look(one) for one in attention[name]] if name in attention else None,
            )
            for name, rows in tables.items()
        ],
    )


def _stretches(labels: Sequence[str], actual: Sequence[str]) -> list[Stretch]:
    pairs = zip(
        labels, (one == true for one, true in zip(labels, actual, strict=True)), strict=True
    )
    return [Stretch(label, len(list(run)), right) for (label, right), run in groupby(pairs)]


def _frames(clips: ClipStore, id_: str) -> list[str]:
    """The middle frame of each segment, small."""
    middles = [clips.fps * segment + clips.fps // 2 for segment in range(SEGMENTS)]
    return [_jpeg(frame) for frame in clips.frames(id_, middles)]


def _jpeg(frame: UInt8[np.ndarray, "H W 3"]) -> str:
    picture = Image.fromarray(frame)
    picture.thumbnail((SIDE, SIDE))
    return _data_url(picture, "JPEG", quality=JPEG_QUALITY)


def _look(attention: Float[np.ndarray, "H W"]) -> Look:
    height, width = attention.shape
    veil = np.zeros((height, width, 4), np.uint8)
    veil[..., 3] = np.rint(255 * VEIL * (1 - attention / attention.max()))
    row, column = np.unravel_index(attention.argmax(), attention.shape)
    x, y = (column + 0.5) / width, (row + 0.5) / height
    place = f"{('top', 'middle', 'bottom')[int(3 * y)]} {('left', 'centre', 'right')[int(3 * x)]}"
    times = attention.max() / attention.mean()
    description = f"looks most at the {place}, {times:.1f} times the average"
    return Look(_data_url(Image.fromarray(veil), "PNG"), 100 * x, 100 * y, description)


def _data_url(picture: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"

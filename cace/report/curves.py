"""Line charts as inline SVG: every line has its name at its end, and its own dash pattern."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

# The drawing, in its own units; it scales with the page.
WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 282, 12, 204  # of the plot within it; names are on its right
NAME_HEIGHT = 14
TICKS = 5  # at most, and one more


class Point(NamedTuple):
    """A place in the drawing."""

    x: float
    y: float


class Line(NamedTuple):
    """One series."""

    name: str
    points: tuple[Point, ...]
    name_y: float  # of the name, beside the line's end
    chosen: Point | None  # the epoch that was chosen on this line


class Tick(NamedTuple):
    """A value on an axis, and its place there."""

    place: float
    text: str


class Chart(NamedTuple):
    """What the template draws."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_name: str
    description: str  # of the chart, for screen readers


def chart(
    title: str,
    series: Mapping[str, Sequence[float]],
    *,
    share: bool = False,
    chosen: Mapping[str, int] | None = None,
    shares: Sequence[float] | None = None,
    x_name: str = "epoch",
) -> Chart:
    """Values by epoch, from 0, or by shares of one.

    share: the values are shares of one; the axis goes from 0 to 100 %.
    chosen: for some of the series an epoch to mark.
    shares: where the values belong on the x axis, which then goes from 0 to 100 %.
    """
    chosen = chosen or {}
    longest = max(len(values) for values in series.values())
    where: Sequence[float] = range(longest) if shares is None else shares
    last = max(1, where[-1]) if shares is None else 1
    y_values = _ticks(1.0 if share else max(max(values) for values in series.values()))
    top = y_values[-1]

    def place(epoch: float, value: float) -> Point:
        x = LEFT + (RIGHT - LEFT) * epoch / last
        return Point(round(x, 1), round(BOTTOM - (BOTTOM - TOP) * value / top, 1))

    points = {
        name: tuple(place(x, value) for x, value in zip(where, values, strict=False))
        for name, values in series.items()
    }
    x_ticks = (
        [Tick(place(e, 0).x, f"{e:g}") for e in _ticks(last) if e == int(e) and e <= last]
        if shares is None
        else [Tick(place(x, 0).x, f"{100 * x:g} %") for x in _ticks(last)]
    )
    names = _apart([places[-1].y for places in points.values()])
    return Chart(
        title,
        tuple(
            Line(name, places, y, places[chosen[name]] if name in chosen else None)
            for (name, places), y in zip(points.items(), names, strict=True)
        ),
        tuple(x_ticks),
        tuple(Tick(place(0, v).y, f"{100 * v:g} %" if share else f"{v:g}") for v in y_values),
        x_name,
        "; ".join(_in_words(name, values, share) for name, values in series.items()),
    )


def _in_words(name: str, values: Sequence[float], share: bool) -> str:
    first, last = (f"{100 * v:.1f} %" if share else f"{v:.3f}" for v in (values[0], values[-1]))
    return f"{name}: {first} at the start, {last} at the end"


def _ticks(most: float) -> list[float]:
    """Round numbers from 0 to the first that is not below `most`."""
    raw = max(most, 1e-9) / TICKS
    magnitude = 10 ** np.floor(np.log10(raw))
    step = next(s * magnitude for s in (1, 2, 2.5, 5, 10) if s * magnitude >= raw * (1 - 1e-9))
    count = int(np.ceil(most / step - 1e-9))
    return [round(float(k * step), 10) for k in range(max(1, count) + 1)]


def _apart(wanted: list[float]) -> list[float]:
    """Heights near the wanted ones, in their order, so that no two names overlap."""
    order = np.argsort(wanted, kind="stable")
    heights = np.array(wanted, float)[order]
    for k in range(1, len(heights)):
        heights[k] = max(heights[k], heights[k - 1] + NAME_HEIGHT)
    heights = np.minimum(heights, BOTTOM - NAME_HEIGHT * np.arange(len(heights))[::-1])
    placed = np.empty_like(heights)
    placed[order] = heights
    return placed.round(1).tolist()

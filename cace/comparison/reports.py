"""A comparison as text for a terminal, as Markdown, as JSON, and as a page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from cace.comparison.clips import counted_clips
from cace.comparison.measures import MEASURES
from cace.comparison.results import Category, Clip, Comparison, Pair, Timeline
from cace.comparison.statistics import Difference
from cace.comparison.words import headline, interval, p_value, percent, points
from cace.evaluation.error_kinds import KINDS
from cace.report import render
from cace.system.errors import printable
from cace.system.files import write_atomically

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ABOUT = (
    "Accuracy is the share of segments with the right label, in percent, as the mean over seeds ± "
    "their deviation. A difference is in percentage points, with its 95 % interval over clips and, "
    "where runs have several seeds, over seeds. p: how often swapping the runs within clips gives "
    "a difference of this size by chance."
)
CORRECTED = (
    "Recall: the share of a category's segments that get its label. p is corrected for the number "
    "of categories (Holm)."
)
NO_CLIP = "No clip has more or fewer right segments."
MANY = (
    "Each run is tested on its own: of twenty runs that are in fact equal to {name}, one is "
    "expected to seem better or worse."
)


class _Document:
    """Titles, paragraphs, tables and lines of fixed width, in one of two forms."""

    def __init__(self, markdown: bool) -> None:
        self.markdown = markdown
        self.blocks: list[str] = []

    def title(self, text: str, level: int = 2) -> None:
        text = self._safe(text)
        self.blocks.append(
            f"{'#' * level} {text}" if self.markdown else f"{text}\n{'-' * len(text)}"
        )

    def paragraph(self, text: str) -> None:
        self.blocks.append(self._safe(text))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> None:
        """words: so many of the first columns are text, and the others numbers."""
        cells = [[self._safe(cell) for cell in row] for row in rows]
        texts = {*header[:words], "verdict"}
        align = ["left" if name in texts else "right" for name in header]
        form = "pipe" if self.markdown else "simple"
        self.blocks.append(
            tabulate(
                cells, self._all_safe(header), tablefmt=form, colalign=align, disable_numparse=True
            )
        )

    def lines(self, lines: Sequence[str]) -> None:
        text = "\n".join(map(printable, lines))
        self.blocks.append(
            f"```text\n{text.replace('```', chr(39) * 3)}\n```" if self.markdown else text
        )

    def text(self) -> str:
        return "\n\n".join(self.blocks) + "\n"

    def _all_safe(self, cells: Sequence[str]) -> list[str]:
        return [self._safe(cell) for cell in cells]

    def _safe(self, text: str) -> str:
        text = printable(text)
        if not self.markdown:
            return text
        return "".join(f"\\{sign}" if sign in r"\`*_[]<>|#" else sign for sign in text)


def as_text(comparison: Comparison, *, markdown: bool = False) -> str:
    """For a terminal, or as Markdown."""
    a, pairs = comparison.name, comparison.pairs
    document = _Document(markdown)
    if len(pairs) > 1:
        document.title(f"{len(pairs)} runs compared with {a}")
        document.table(OVERVIEW, overview(comparison), words=1)
        document.paragraph(MANY.format(name=a))
    for pair in pairs:
        document.title(f"{pair.name} compared with {a}")
        document.paragraph(headline(a, pair))
        _pair(document, comparison, pair, level=3)
    document.paragraph(ABOUT)
    return document.text()


OVERVIEW = ("run", "seeds", "accuracy, %", "difference", "95 % interval", "p", "verdict")


def overview(comparison: Comparison) -> list[list[str]]:
    """One row per run: its accuracy, and the difference from the first run."""
    first = comparison.pairs[0].measures["accuracy"].a
    rows = [[comparison.name, str(len(comparison.seeds)), percent(*first), "", "", "", ""]]
    for pair in comparison.pairs:
        found = pair.measures["accuracy"]
        rows.append([pair.name, str(len(pair.seeds)), percent(*found.b), *_cells(found)])
    return rows


def measure_rows(pair: Pair) -> list[list[str]]:
    """One row per measure."""
    return [
        [MEASURES[name], percent(*found.a), percent(*found.b), *_cells(found)]
        for name, found in pair.measures.items()
    ]


def category_rows(pair: Pair) -> list[list[str]]:
    """One row per category: its clips, recalls and difference."""
    return [
        [one.name, str(one.recall.clips), percent(*one.recall.a), percent(*one.recall.b), *cells]
        for one in pair.categories
        for cells in [_cells(one.tested)]
    ]


def error_rows(pair: Pair) -> list[list[str]]:
    """One row per kind of error: shares of all segments, in percent, and their difference."""
    return [
        [
            kind.replace("_", " "),
            f"{100 * one:.1f}",
            f"{100 * other:.1f}",
            points(other - one, sign=True),
        ]
        for kind, (one, other) in pair.errors.items()
    ]


def setting_rows(pair: Pair) -> list[list[str]]:
    """Name and both values of the settings that differ."""
    return [[name, _value(one), _value(other)] for name, one, other in pair.settings or ()]


def _cells(found: Difference) -> list[str]:
    return [
        points(found.difference, sign=True),
        interval(found),
        p_value(found.p),
        found.verdict,
    ]


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _pair(document: _Document, comparison: Comparison, pair: Pair, level: int) -> None:
    a, b = comparison.name, pair.name
    about = f"{counted_clips(comparison.clips, 'test ')}. {comparison.remark or ''}".strip()
    document.paragraph(" ".join([about, *pair.remarks]))
    differing = ("difference", "95 % interval", "p", "verdict")
    document.table(("%", a, b, *differing), measure_rows(pair))
    document.title("Kinds of errors", level)
    document.table(("% of segments", a, b, "difference"), error_rows(pair))
    document.title("Settings that differ", level)
    if rows := setting_rows(pair):
        document.table(("setting", a, b), rows, words=3)
    else:
        document.paragraph("None." if pair.settings is not None else "Not known.")
    document.title("Categories", level)
    document.table(("recall, %", "clips", a, b, *differing), category_rows(pair))
    document.paragraph(CORRECTED)
    document.title("The clips that changed most", level)
    if not pair.clips:
        document.paragraph(NO_CLIP)
    for clip in pair.clips:
        document.lines(_timelines(clip))


def _timelines(clip: Clip) -> list[str]:
    """A line per timeline with a letter per segment, `.` for background."""
    lines = [clip.truth, *clip.a, *clip.b]
    stretches = [stretch.label for line in lines for stretch in line.stretches]
    labels = [name for name in dict.fromkeys(stretches) if name != "background"]
    signs = {**dict(zip(labels, LETTERS, strict=False)), "background": "."}
    legend = ", ".join(f"{signs[name]} {name}" for name in labels if name in signs)
    change = f"{clip.right_a:.1f} -> {clip.right_b:.1f} right segments"
    width = max(len(line.name) for line in lines)
    return [
        f"{clip_name(clip)}: {change} ({legend})",
        *(f"  {line.name:<{width}}  {_letters(line, signs)}" for line in lines),
    ]


def clip_name(clip: Clip) -> str:
    """The id; with its row if it is not the first annotation of the clip."""
    return clip.id if not clip.row else f"{clip.id}, annotation {clip.row + 1}"


def _letters(line: Timeline, signs: dict[str, str]) -> str:
    return "".join(signs.get(label, "?") * seconds for label, seconds, _ in line.stretches)


def as_json(comparison: Comparison) -> str:
    """All numbers; shares from 0 to 1. Names are those of the classes in `results`."""
    return json.dumps(_plain(comparison), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Named tuples as objects; differences also with their verdicts."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        verdict = {"verdict": value.verdict} if isinstance(value, Difference | Category) else {}
        return {name: _plain(one) for name, one in value._asdict().items()} | verdict
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def page(comparison: Comparison) -> str:
    """One HTML page that needs no other file."""
    a = comparison.name
    return render(
        "compare.html",
        "cace.comparison",
        comparison=comparison,
        a=a,
        about=ABOUT,
        corrected=CORRECTED,
        no_clip=NO_CLIP,
        clips=counted_clips(comparison.clips, "test "),
        many=MANY.format(name=a),
        kinds=KINDS,
        headline=lambda pair: headline(a, pair),
        overview=overview(comparison),
        overview_header=OVERVIEW,
        measure_rows=measure_rows,
        category_rows=category_rows,
        tested=lambda pair: [one.tested for one in pair.categories],
        error_rows=error_rows,
        setting_rows=setting_rows,
        clip_name=clip_name,
        bars=_bars,
    )


def _bars(found: Sequence[Difference]) -> list[dict[str, float] | None]:
    """Places of the interval and the difference, in percent of a width with 0 in the middle."""
    ends = [(one.low, one.high) for one in found if one.low is not None and one.high is not None]
    reach = max([0.01, *(abs(end) for pair in ends for end in pair)])
    return [
        None
        if one.low is None or one.high is None
        else {
            name: round(50 + 48 * share / reach, 2)
            for name, share in (("low", one.low), ("high", one.high), ("at", one.difference))
        }
        for one in found
    ]


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes compare.md, compare.json and compare.html; returns their paths."""
    contents = {
        "compare.md": as_text(comparison, markdown=True),
        "compare.json": as_json(comparison),
        "compare.html": page(comparison),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]

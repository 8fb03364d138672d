"""One clip as the pipeline reads it: frames with their labels, its sound, its spectrogram."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")  # pictures are written to files, so no screen is needed

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import soundfile
from matplotlib import font_manager
from matplotlib.figure import Figure

from cace.conventions import SAMPLE_RATE, SEGMENTS
from cace.data.annotations import Annotations, Row, segment_labels
from cace.media.store import ClipStore
from cace.system.errors import UserError
from cace.system.files import write_atomically

EVENT, BACKGROUND, WRONG = "#0072b2", "#767676", "#b03a00"


class Inspected(NamedTuple):
    """The files that were written, and what to know about them."""

    contact_sheet: Path
    spectrogram: Path
    sound: Path
    remarks: tuple[str, ...]


def inspect_clip(
    id_: str, clips: ClipStore, annotations: Annotations, predictions: Path, into: Path
) -> Inspected:
    """Writes contact_sheet.png, spectrogram.png and sound.wav.

    predictions: the CSV that `evaluate` writes; if it is missing, or does not contain the clip,
        the picture shows only labels.
    Raises: UserError if the clip is unknown, or could not be decoded (with the reason).
    """
    if id_ not in annotations.ids:
        near = [other for other in annotations.ids if other.startswith(id_[:3])][:5]
        raise UserError(
            f"clip {id_!r}: not in this data set of {len(annotations.ids)} clips; "
            f"{'similar: ' + ', '.join(near) if near else 'see ' + str(clips.folder / 'clips.csv')}"
        )
    frames, sound = clips.frames(id_), clips.sound(id_)
    names = [*annotations.categories, "background"]
    rows = [i for i, row in enumerate(annotations.rows) if row.id == id_]
    # Predictions are of test rows; in AVE some clips have two rows, with different labels.
    rows.sort(key=lambda row: annotations.rows[row].split != "test")
    labels = [[names[k] for k in segment_labels(annotations)[row]] for row in rows]
    predicted = _predictions(predictions, id_)
    title = "; ".join(_describe(annotations.rows[row], names) for row in rows)

    middle = frames[clips.fps // 2 :: clips.fps][:SEGMENTS]
    title = f"{id_}: {title}"
    fonts, without = _fonts("".join([title, *labels[0], *(predicted or [])]))
    sheet, spectrogram = into / "contact_sheet.png", into / "spectrogram.png"
    with _plain_text(fonts):
        _draw_contact_sheet(sheet, title, middle, labels[0], predicted)
        _draw_spectrogram(spectrogram, title, sound.ravel(), labels[0])
    wave = io.BytesIO()
    soundfile.write(wave, sound.ravel(), SAMPLE_RATE, subtype="PCM_16", format="WAV")
    write_atomically(into / "sound.wav", wave.getvalue())
    remarks = []
    if without:
        remarks.append(
            f"no installed font has {without}: the pictures show boxes instead; install a font "
            f"that has them, such as Noto Sans CJK for Chinese, Japanese and Korean"
        )
    return Inspected(sheet, spectrogram, into / "sound.wav", tuple(remarks))


def _fonts(text: str) -> tuple[list[str], str]:
    """Families of installed fonts that together have the characters, and those that none has."""
    families = [matplotlib.rcParams["font.sans-serif"][0]]
    missing = {character for character in text if character.isprintable()}
    missing -= _characters(font_manager.findfont(families[0]))
    # matplotlib caches its list of fonts, which may be outdated: look at what is installed now.
    for path in sorted(font_manager.findSystemFonts()) if missing else ():
        if there := missing & _characters(path):
            font_manager.fontManager.addfont(path)
            families.append(font_manager.FontProperties(fname=path).get_name())
            missing -= there
    return families, "".join(sorted(missing))


def _characters(font: str) -> set[str]:
    """Those that a font can draw; none if matplotlib cannot read it, or it has only bitmaps."""
    try:
        face = font_manager.get_font(font)
    except (OSError, RuntimeError):
        return set()
    return set(map(chr, face.get_charmap())) if face.scalable else set()


@contextmanager
def _plain_text(families: list[str]) -> Iterator[None]:
    """Draws text as it is, not as a formula, in the first of the fonts that has its characters."""
    settings: Any = {"text.parse_math": False, "text.usetex": False, "font.family": families}
    with plt.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a remark reports it
        yield


def _write(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, dpi=80)
    plt.close(figure)
    write_atomically(path, picture.getvalue())


def _describe(row: Row, names: list[str]) -> str:
    return f"{names[row.category]}, {row.start}-{row.end} s, {row.split}"


def _predictions(path: Path, id_: str) -> list[str] | None:
    """Predicted category names of the first seed, or None."""
    if not path.is_file():
        return None
    table = pd.read_csv(path, dtype={"id": str}, keep_default_na=False)
    table = table[table["id"] == id_]
    found = table[table["seed"] == table["seed"].min()].head(SEGMENTS)
    return list(found["predicted"]) or None


def _draw_contact_sheet(
    path: Path, title: str, frames: np.ndarray, labels: list[str], predicted: list[str] | None
) -> None:
    figure, axes = plt.subplots(2, 5, figsize=(14, 7.2), layout="constrained")
    figure.suptitle(title, fontweight="bold")
    for second, (axis, frame, label) in enumerate(zip(axes.flat, frames, labels, strict=True)):
        axis.imshow(frame)
        axis.set(xticks=[], yticks=[])
        colour = BACKGROUND if label == "background" else EVENT
        for spine in axis.spines.values():
            spine.set(edgecolor=colour, linewidth=4)
        axis.set_title(f"{second} s: {label}", color=colour, fontsize=10)
        if predicted is not None:
            right = predicted[second] == label
            mark = "predicted" if right else "wrongly"
            axis.set_xlabel(
                f"{mark}: {predicted[second]}", color=colour if right else WRONG, fontsize=10
            )
    _write(figure, path)


def _draw_spectrogram(path: Path, title: str, sound: np.ndarray, labels: list[str]) -> None:
    figure, axis = plt.subplots(figsize=(14, 4.5), layout="constrained")
    # A floor of digital silence, so that the colours start at -120 dB and not at minus infinity.
    quiet = np.random.default_rng(0).normal(scale=1e-6, size=len(sound))
    _, _, _, image = axis.specgram(
        sound + quiet, NFFT=1024, Fs=SAMPLE_RATE, noverlap=704, vmin=-140, vmax=-40
    )
    axis.set(xlabel="seconds", ylabel="Hz", xticks=range(SEGMENTS + 1))
    axis.set_title(title, fontweight="bold", pad=24)
    over_plot = axis.get_xaxis_transform()  # seconds by share of the plot's height
    axis.set_xlim(0, SEGMENTS)
    figure.colorbar(image, label="dB of full power per Hz")
    for second, label in enumerate(labels):
        colour = BACKGROUND if label == "background" else EVENT
        strip = plt.Rectangle(
            (second, 1), 1, 0.06, color=colour, transform=over_plot, clip_on=False
        )
        axis.add_patch(strip)
        short = label if len(label) < 14 else f"{label[:12]}…"
        axis.text(second + 0.05, 1.015, short, transform=over_plot, color="white", fontsize=9)
    _write(figure, path)

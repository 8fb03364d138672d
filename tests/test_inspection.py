"""What `cace inspect` shows of a clip."""

from types import SimpleNamespace

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.text import Text
from PIL import Image

from cace.data.annotations import Annotations, Row
from cace.tools import inspect as inspection


@pytest.fixture
def inspect(tmp_path):
    """Inspects clip a, of whose rows the last is of the test split."""

    def inspect(id_="a", categories=("Bark", "Flute"), predicted="Flute"):
        last = len(categories) - 1
        splits = ("train", "test")[-len(categories) :]
        rows = tuple(Row(id_, k, 0, 10, split) for k, split in enumerate(splits))
        clips = SimpleNamespace(
            fps=1,
            folder=tmp_path,
            frames=lambda id_: np.zeros((10, 8, 8, 3), np.uint8),
            sound=lambda id_: np.zeros((10, 32_000), np.float32),
        )
        predictions = tmp_path / "test.csv"
        lines = "".join(f"{id_},0,{predicted}\n" for _ in range(10))
        predictions.write_text(f"id,seed,predicted\n{lines}", encoding="utf-8")
        assert splits[last] == "test"
        annotations = Annotations(categories, rows)
        return inspection.inspect_clip(id_, clips, annotations, predictions, tmp_path / "seen")

    return inspect


def test_a_prediction_is_compared_with_the_row_of_the_test_split(inspect, monkeypatch):
    drawn = []
    monkeypatch.setattr(inspection, "_draw_contact_sheet", lambda *what: drawn.append(what))
    inspect()
    *_, labels, predicted = drawn[0]
    assert labels == predicted == ["Flute"] * 10


def test_dollar_signs_are_drawn_as_they_are(inspect, monkeypatch):
    texts = []
    write = inspection._write

    def noted(figure, path):
        texts.extend(figure.findobj(Text))
        write(figure, path)

    monkeypatch.setattr(inspection, "_write", noted)
    inspect(id_="a$b_$c", categories=("Ca$$h register \\frac",), predicted="$x^{$")
    with_dollar = [text for text in texts if "$" in text.get_text()]
    # Contact sheet: title, 10 labels, 10 predictions. Spectrogram: title, 10 labels.
    assert len(with_dollar) == 32
    assert not any(text.get_parse_math() or text.get_usetex() for text in with_dollar)


def write_font(path, character):
    """A font in which the character is a filled square, and nothing else has a shape."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "square"])
    font.setupCharacterMap({ord(character): "square"})
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    font.setupHorizontalHeader(ascent=1000, descent=0)
    font.setupNameTable({"familyName": f"Square {path.stem}", "styleName": "Regular"})
    font.setupOS2(sTypoAscender=1000, usWinAscent=1000)
    font.setupPost()
    font.save(path)
    return str(path)


def ink(inspected):
    """How many pixels of the contact sheet are blue, as its labels are."""
    red, green, blue = np.moveaxis(np.asarray(Image.open(inspected.contact_sheet))[..., :3], -1, 0)
    return int(((red < 40) & (green > 90) & (green < 140) & (blue > 150)).sum())


def test_a_category_is_drawn_in_an_installed_font_that_has_it(inspect, monkeypatch, tmp_path):
    fonts = [write_font(tmp_path / "other.ttf", "猫")]
    monkeypatch.setattr(inspection.font_manager, "findSystemFonts", lambda: fonts)
    boxes = inspect(categories=("狗" * 6,), predicted="狗" * 6)
    (remark,) = boxes.remarks
    assert remark.startswith("no installed font has 狗: the pictures show boxes instead; install")
    before = ink(boxes)
    fonts.append(write_font(tmp_path / "dog.ttf", "狗"))
    fonts.append(str(tmp_path / "missing.ttf"))
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    fonts.insert(0, str(tmp_path / "damaged.ttf"))
    drawn = inspect(categories=("狗" * 6,), predicted="狗" * 6)
    assert drawn.remarks == ()
    # 20 labels of 6 squares of 10 points at 80 dots an inch: 11 x 11 pixels each.
    assert ink(drawn) - before > 20 * 6 * 11 * 11 / 2


@pytest.mark.filterwarnings("error")
def test_missing_characters_are_told_once(inspect, monkeypatch):
    monkeypatch.setattr(inspection.font_manager, "findSystemFonts", list)
    (remark,) = inspect(categories=("狗吠 ä",), predicted="猫").remarks
    assert remark.startswith("no installed font has 吠狗猫: ")

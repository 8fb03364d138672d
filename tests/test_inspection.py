"""What `cace inspect` shows of a clip that has two rows."""

from types import SimpleNamespace

import numpy as np

from cace.data.annotations import Annotations, Row
from cace.tools import inspect as inspection


def test_a_prediction_is_compared_with_the_row_of_the_test_split(tmp_path, monkeypatch):
    rows = (Row("a", 0, 0, 10, "train"), Row("a", 1, 0, 10, "test"))
    clips = SimpleNamespace(
        fps=1,
        folder=tmp_path,
        frames=lambda id_: np.zeros((10, 8, 8, 3), np.uint8),
        sound=lambda id_: np.zeros((10, 32_000), np.float32),
    )
    annotations = Annotations(("Bark", "Flute"), rows)
    predictions = tmp_path / "test.csv"
    predictions.write_text("id,seed,predicted\n" + "a,0,Flute\n" * 10)
    drawn = []
    monkeypatch.setattr(inspection, "_draw_contact_sheet", lambda *what: drawn.append(what))
    inspection.inspect_clip("a", clips, annotations, predictions, tmp_path / "seen")
    *_, labels, predicted = drawn[0]
    assert labels == predicted == ["Flute"] * 10

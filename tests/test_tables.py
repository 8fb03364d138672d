"""What tables of results say about how their rows differ."""

import numpy as np
import pytest

from ablations.tables import add_marks
from cace.evaluation import prediction_files
from cace.system.errors import UserError
from cace.tables.marks import marks

CLIPS = 40


def write(folder, name, wrong, clips=CLIPS):
    """A cell that has so many wrong segments in each clip."""
    actual = np.zeros((clips, 10), int)
    predicted = actual.copy()
    for clip, count in enumerate(wrong):
        predicted[clip, :count] = 1
    ids = [f"clip{k}" for k in range(clips)]
    category = np.zeros(clips, int)
    text = prediction_files.write(["Bark"], ids, actual, {0: predicted}, {0: category})
    (folder / name).mkdir(parents=True)
    (folder / name / "predictions.csv").write_text(text)


@pytest.fixture
def cells(tmp_path):
    rng = np.random.default_rng(0)
    write(tmp_path, "first", [5] * CLIPS)
    write(tmp_path, "best", [4] * CLIPS)
    write(tmp_path, "worst", [7] * CLIPS)
    write(tmp_path, "noisy", 5 + rng.permutation([-4, 4] * (CLIPS // 2)))
    write(tmp_path, "same", [5] * CLIPS)
    return tmp_path


def test_a_row_is_better_or_worse_only_if_the_clips_can_tell(cells):
    found = marks(cells, "first", ["first", "best", "worst", "noisy", "same"])
    verdicts = {name: mark["verdict"] for name, mark in found.items()}
    assert verdicts == {
        "best": "better", "worst": "worse", "noisy": "cannot tell", "same": "equal",
    }  # fmt: skip
    assert found["best"]["difference"] == pytest.approx(0.1)
    assert found["worst"]["shown"].startswith("−20.0 (")
    assert found["worst"]["shown"].endswith("): worse")


def test_the_first_row_that_was_run_is_the_reference(cells):
    scores = {"accuracy": 0.5}
    entries = [{"cell": "gone", "not_run": "no frames"}]
    entries += [{"cell": name, "test": scores} for name in ("first", "best", "first")]
    add_marks(entries, cells)
    assert [entry.get("against_first", {}).get("verdict") for entry in entries] == [
        None, None, "better", None,
    ]  # fmt: skip


def test_a_cell_without_predictions_is_named(cells):
    (cells / "best/predictions.csv").write_text(prediction_files.HEADER)
    with pytest.raises(UserError, match=r"best/predictions.csv: has no predictions"):
        marks(cells, "first", ["best"])

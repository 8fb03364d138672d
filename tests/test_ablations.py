"""The ablations: what a cell changes, and how cells become the paper's tables."""

from pathlib import Path

import pytest
import yaml

from ablations import tables
from ablations.tables import TABLES, Row
from ablations.train import settings
from cace.system.errors import UserError

ROOT = Path(__file__).parent.parent
CELLS = yaml.safe_load((ROOT / "ablations/params.yaml").read_text())["cells"]
SOURCES = ("mini", "folder", "ave", "released")


def test_the_matrix_runs_every_cell():
    stages = yaml.safe_load((ROOT / "ablations/dvc.yaml").read_text())["stages"]
    assert set(stages["train"]["matrix"]["cell"]) == set(CELLS)


def test_every_row_has_a_cell_and_every_cell_a_row():
    shown = set()
    for table in TABLES.values():
        for row in table.rows:
            shown.update([row.cell] if isinstance(row.cell, str) else row.cell.values())
    assert shown == set(CELLS)


def mode_and_lambda(cell):
    params = settings(cell)
    return params.guidance.mode, params.bece.enabled and params.bece.lambda_


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("none", ("none", False)),
        ("audio", ("audio", False)),
        ("visual", ("visual", False)),
        ("both", ("both", False)),
        ("audio_bece", ("audio", 0.6)),
        ("both_bece", ("both", 0.6)),
        ("lambda_02", ("both", 0.2)),
        ("lambda_04", ("both", 0.4)),
        ("lambda_08", ("both", 0.8)),
        ("both_heads", ("both", 0.6)),
    ],
)
def test_a_cell_has_the_settings_of_its_row(cell, expected, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert mode_and_lambda(cell) == expected
    assert settings(cell).bece.heads == ("both" if cell == "both_heads" else "event")


def test_a_cell_has_a_length_of_its_own(monkeypatch):
    monkeypatch.chdir(ROOT)
    params = settings("both")
    assert (params.train.epochs, params.train.seeds) == (8, (0, 1))


def test_weak_cells_have_three_seeds_and_the_others_full_supervision(monkeypatch):
    monkeypatch.chdir(ROOT)
    for cell in CELLS:
        params = settings(cell)
        weak = cell.startswith("weak")
        assert params.supervision == ("weak" if weak else "full")
        assert len(params.train.seeds) == (3 if weak else 2)
    half, top = settings("weak_half_the_pairs").weak, settings("weak_top_04").weak
    assert (half.mismatch, half.top, top.mismatch, top.top) == (0.5, 0.7, 1.0, 0.4)


def test_an_unknown_cell_is_refused(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match="expected one of none, audio, .*, got 'nobody'"):
        settings("nobody")


def result(accuracy, deviation=None):
    return {
        "epochs": 8,
        "encoders": {"visual": {"name": "vgg19", "weights": "imagenet", "finetuned_epochs": 2}},
        "test": {
            "accuracy": accuracy,
            "accuracy_std": deviation,
            "background_recall": 0.5,
            "seeds": 1,
        },
        "best_on_test": {"max": 0.9, "mean": 0.875, "std": deviation},
        "contrast": {"excess": 0.0004, "gradient": 0.0123},
    }


def test_a_row_shows_both_protocols_beside_the_papers_figure():
    entry = tables.entry(Row("w/ AVCA", "both", 80.3), "mini", {"both": result(0.8125, 0.01)})
    shown = tables.columns(entry)
    assert (shown["honest"], shown["best on test"]) == ("81.2 ± 1.0", "87.5 ± 1.0")
    assert (shown["paper"], shown["excess"], shown["gradient"]) == ("80.30", "0.0004", "1.2%")
    assert shown["visual encoder"] == "vgg19, imagenet, fine-tuned 2 epochs"


def test_a_row_that_a_source_cannot_run_names_those_that_can():
    entry = tables.entry(Row("VGG", {"released": "both_bece"}, 80.8), "ave", {})
    assert tables.columns(entry)["honest"] == "not run: runs with data.source released"


def test_a_cell_that_was_not_run_gives_the_reason():
    results = {"random": {"not_run": "no frames"}}
    assert tables.entry(Row("x", "random"), "mini", results)["not_run"] == "no frames"


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_fills_tables_1_and_2(source):
    results = dict.fromkeys(CELLS, result(0.5))
    for name in ("table_1", "table_2"):
        for row in TABLES[name].rows:
            assert tables.entry(row, source, results)["test"]["accuracy"] == 0.5

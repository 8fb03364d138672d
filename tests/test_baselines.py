"""Table 5: what a cell trains with, and how cells become rows."""

import re

import pytest
import yaml

from baselines.tables import rows
from baselines.tables.rows import TABLE_5_ROWS, Row
from baselines.train import settings
from cace.comparison.words import percent
from cace.settings import LOCALIZERS, load_params, method_params
from cace.system.errors import UserError
from tests.project import ROOT

METHODS = sorted(path.stem for path in (ROOT / "baselines/settings").glob("*.yaml"))


@pytest.fixture(autouse=True)
def at_the_top(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_every_method_has_a_cell_and_a_row():
    stages = yaml.safe_load((ROOT / "baselines/dvc.yaml").read_text())["stages"]
    assert set(stages["train"]["matrix"]["cell"]) == set(METHODS) == set(LOCALIZERS)
    assert {row.cell for row in TABLE_5_ROWS} == set(METHODS)


def test_the_rows_have_the_figures_of_the_paper():
    paper = "59.5 55.3 72.7 74.5 77.4 77.8 79.3 79.3 80.5 80.8 82.4"
    found = [row.paper for row in TABLE_5_ROWS if row.paper]
    assert found == [float(figure) for figure in paper.split()]


def test_every_method_of_two_modalities_is_in_the_table_of_weak_supervision():
    stages = yaml.safe_load((ROOT / "baselines/dvc.yaml").read_text())["stages"]
    offered = {name for name in LOCALIZERS if method_params(name).weak_forms}
    assert set(stages["train_weak"]["matrix"]["cell"]) == offered
    assert {row.cell for row in rows.WEAK_ROWS} == offered
    assert {row.cell: row.paper for row in rows.WEAK_ROWS if row.paper} == {
        "cmran": 72.94,
        "cmbs": 73.95,
        "css": 76.8,
    }


@pytest.mark.parametrize("method", ["cmran", "cace_net"])
def test_a_weak_cell_differs_in_supervision_alone(method):
    weak, full = settings(method, weak=True), settings(method)
    assert (weak.supervision, full.supervision) == ("weak", "full")
    assert weak.train == full.train
    assert getattr(weak, method) == getattr(full, method)


@pytest.mark.parametrize("source", rows.ALL)
def test_a_source_fills_ten_rows_of_the_paper(source):
    assert sum(source in row.sources for row in TABLE_5_ROWS if row.paper) == 10


# Learning rate, schedule, batch, epochs and clip that each was published with.
PUBLISHED = {
    "avel": (1e-3, (288,), 0.1, 64, 300, None),
    "cmran": (5e-4, (10, 20, 30), 0.5, 32, 200, 0.1),
    "psp": (1e-3, (60, 120), 0.8, 128, 300, None),
    "cmbs": (7e-4, (10, 20, 30), 0.5, 64, 200, 0.5),
    "cace_net": (7e-4, (10, 20, 30), 0.5, 64, 200, 0.5),
}


@pytest.mark.parametrize("method", PUBLISHED)
def test_a_cell_trains_as_the_paper_does_on_all_of_ave(method, tmp_path, monkeypatch):
    with_source(tmp_path, monkeypatch, "released")
    train = settings(method).train
    found = train.learning_rate, train.milestones, train.decay, train.batch_size
    assert (*found, train.epochs, train.max_grad_norm) == PUBLISHED[method]
    assert train.seeds == (0, 1, 2)


def with_source(folder, monkeypatch, source, change=lambda text: text):
    """Changes to a copy of the settings with another source."""
    for name in ("profiles", "baselines"):
        (folder / name).symlink_to(ROOT / name)
    text = (ROOT / "params.yaml").read_text().replace("source: mini", f"source: {source}")
    (folder / "params.yaml").write_text(change(text))
    monkeypatch.chdir(folder)


def test_few_clips_change_the_length_alone(tmp_path, monkeypatch):
    few = settings("psp").train.model_dump()
    with_source(tmp_path, monkeypatch, "ave")
    published = settings("psp").train.model_dump()
    differ = {key for key, value in few.items() if value != published[key]}
    assert differ == {"epochs", "batch_size", "milestones"}


@pytest.mark.parametrize("method", METHODS)
def test_a_cell_does_not_depend_on_the_method_sections_of_params_yaml(
    method, tmp_path, monkeypatch
):
    expected = settings(method).of_training()

    def other(text):
        text = text.replace("width: 512", "width: 64").replace("width: 128", "width: 64")
        text = text.replace("width: 256", "width: 64").replace("beta: 0.4", "beta: 0.1")
        text = text.replace("lambda: 0.6", "lambda: 0.2").replace("alpha: 0.1", "alpha: 0.3")
        return re.sub("(gamma|psi): 0.3", r"\1: 0.1", text).replace("concat", "dmrn", 1)

    with_source(tmp_path, monkeypatch, "mini", other)
    assert load_params().cace_net.width == 64
    assert settings(method).of_training() == expected


def test_an_unknown_method_is_refused():
    with pytest.raises(UserError, match="expected one of audio, ave_clip, .*, got 'nobody'"):
        settings("nobody")


def cell(accuracy, low=0.75, reconstruction=""):
    scores = {"accuracy": accuracy, "accuracy_std": 0.01, "accuracy_low": low}
    scores |= {"accuracy_high": 0.9, "category_accuracy": 0.95, "background_recall": 0.5}
    scores["background_precision"] = 0.4
    return {
        "title": "PSP",
        "reconstruction": reconstruction,
        "parameters": 1_234_567,
        "train": {"epochs": 14},
        "test": {**scores, "event_level_f1": 0.6},
        "best_on_test": {"max": 0.9, "mean": 0.875, "std": 0.02},
        "anchors": {"always_background": 0.178, "never_background": 0.822},
    }


MARKS = {"psp": {"difference": 0.01, "shown": "in words"}}


def test_a_row_shows_both_protocols_and_what_they_leave_out():
    entry = rows.entry(Row("PSP", "psp", 77.8), "mini", {"psp": cell(0.8125)}, MARKS)
    assert rows.columns(entry) == {
        "row": "PSP",
        "paper": "77.8",
        "honest": "81.2 ± 1.0",
        "interval": "75.0 to 90.0",
        "against CACE-Net": "in words",
        "best on test": "87.5 ± 2.0",
        "category": "95.0",
        "background recall": "50.0",
        "background precision": "40.0",
        "event-level F1": "60.0",
        "parameters": "1,234,567",
        "kind": "exact",
    }


def test_a_reconstruction_is_called_one():
    entry = rows.entry(Row("DAM", "dam", 74.5), "mini", {"dam": cell(0.8, None, "all free")}, {})
    shown = rows.columns(entry)
    assert (shown["kind"], shown["interval"]) == ("reconstruction", "")


def test_the_anchors_need_no_training():
    first, second = (rows.columns(row) for row in rows.anchors({"psp": cell(0.8)}))
    assert (first["row"], first["honest"]) == ("every segment called background", "17.8")
    assert (second["row"], second["honest"]) == ("right category, never background", "82.2")


def test_a_row_of_other_sources_names_them():
    shown = rows.columns(rows.entry(TABLE_5_ROWS[-1], "released", {}, {}))
    assert shown["honest"] == "not run: runs with data.source ave"


def test_equal_figures_are_rounded_alike():
    assert percent(0.4625) == percent(0.46250000000000008) == "46.2"


def test_methods_that_find_no_event_are_named():
    found = [{"row": "a", "accuracy": 0.5}, {"row": "b", "test": {"event_recall": 0.0}}]
    found += [{"row": "c", "test": {"event_recall": 0.1}}, {"row": "d", "not_run": "x"}]
    assert rows.without_events(found) == ["b"]

"""`dvc repro matching/dvc.yaml` as users run it, on the small project."""

import shutil

import pytest
import yaml

from cace.features.store import FeatureStore
from cace.matching.checkpoints import MATCHERS
from cace.matching.windows import partial_events
from tests.project import ROOT


@pytest.fixture(scope="module")
def matched(project, tmp_path_factory):
    """The small project with its matchers trained."""
    project = project.copy_to(tmp_path_factory.mktemp("matched") / "cace")
    shutil.copy(ROOT / "matching/dvc.yaml", project.folder / "matching")
    project.run("dvc", "repro", "matching/dvc.yaml")
    return project


def test_every_matcher_has_a_cell():
    stages = yaml.safe_load((ROOT / "matching/dvc.yaml").read_text())["stages"]
    assert set(stages["train"]["matrix"]["cell"]) == set(MATCHERS)


def test_the_pipeline_ends_with_a_table_of_rules_and_matchers(matched):
    table = matched.json("metrics/matching/table.json")
    assert [row["row"] for row in table["rows"]] == [
        "random start", "always the first second", "always the last window",
        "most frequent start in train", "AVDLN", "DAM",
    ]  # fmt: skip
    text = (matched.folder / "metrics/matching/table.md").read_text()
    assert "no evidence about AVE" in text
    page = (matched.folder / "data/matching/table.html").read_text()
    assert "DAM is a reconstruction" in page


def test_the_cells_score_the_partial_events_of_test(matched):
    store = FeatureStore(matched.folder / "data/features.h5")
    test = partial_events(store.labels != store.background, store.rows("test"))
    for name in MATCHERS:
        cell = matched.json(f"data/matching/cells/{name}/scores.json")
        assert cell["clips"] == len(test.rows)
        assert cell["skipped"] == test.skipped


def test_a_second_run_does_nothing(matched):
    assert "up to date" in matched.run("dvc", "status", "matching/dvc.yaml")


def test_settings_of_one_matcher_re_run_only_its_cell(matched, tmp_path):
    project = matched.copy_to(tmp_path / "cace")
    file = project.folder / "matching/settings/dam.yaml"
    file.write_text(file.read_text().replace("epochs: 40", "epochs: 1"))
    status = project.run("dvc", "status", "matching/dvc.yaml")
    assert "train@dam" in status
    assert "train@distance" not in status


def test_a_video_is_matched_with_the_encoders_of_the_project(matched):
    video = sorted((matched.folder / "data/media/AVE").iterdir())[0]
    for name in MATCHERS:
        printed = matched.run(
            "cace", "match", f"data/media/AVE/{video.name}", "--sound", "3-6",
            "--model", f"data/matching/cells/{name}",
        )  # fmt: skip
        assert "sound 3-6 s: the picture that fits best is" in printed
        assert "number" in printed and "of 8" in printed

"""The released feature files: copied from the user's folder, the rest fetched, and trained on."""

import os
import shutil

import pytest

from cace.data.sources import released
from cace.data.sources.released import FILES, complete, copy_files, find_files
from cace.data.sources.released_labels import OPTIONAL, WITHOUT_EVENT
from cace.features.store import FeatureStore
from cace.system.errors import UserError
from cace.system.files import sha256
from tests.project import ROOT, Project
from tests.releases import ROWS, SPLIT_OF, annotation_lines, write_release, write_without_event

FETCHED = {file.name for file in FILES} - set(WITHOUT_EVENT)
REQUIRED = FETCHED - set(OPTIONAL)


@pytest.fixture
def release(tmp_path):
    """A folder with all files of tests/releases.py."""
    return write_release(tmp_path / "release")


def test_files_are_found_in_the_folder_or_in_its_data_folder(release):
    (release / "data").mkdir()
    (release / "labels.h5").rename(release / "data/labels.h5")
    found = find_files(release)
    assert set(found) == FETCHED
    assert found["labels.h5"] == release / "data/labels.h5"


def test_a_folder_without_any_of_the_files_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"expected the released files \(Annotations.txt, "):
        find_files(tmp_path)


def test_an_error_page_and_a_file_that_is_cut_off_are_refused(release):
    (release / "labels.h5").write_text("<html>quota exceeded</html>")
    os.truncate(release / "visual_feature.h5", 3000)
    with pytest.raises(UserError) as caught:
        find_files(release)
    assert "labels.h5: not an HDF5 file; get it again" in str(caught.value)
    assert "visual_feature.h5: cut short, 3000 of 48128 bytes; get it" in str(caught.value)


def test_a_file_under_the_name_of_another_is_refused(release, monkeypatch):
    """As when the order files of the two tasks have been exchanged completely."""
    known = [file._replace(sha256="") for file in FILES if file.name != "train_order.h5"]
    (order,) = (file for file in FILES if file.name == "train_order.h5")
    known.append(order._replace(sha256=sha256(release / "train_order.h5")))
    monkeypatch.setattr(released, "FILES", tuple(known))
    assert "train_order.h5" in find_files(release)
    (release / "train_order.h5").rename(release / "train_order_match.h5")
    with pytest.raises(UserError, match="train_order_match.h5: is the release's train_order.h5"):
        find_files(release)


@pytest.fixture
def downloads(release, monkeypatch):
    """The names that were asked for; each is there at once."""
    asked = []

    def fetch(files):
        asked.extend(file.name for file in files)
        return [release / name for name in asked]

    monkeypatch.setattr(released, "fetch", fetch)
    return asked


def test_without_a_folder_all_files_are_fetched(downloads, release):
    assert complete({}) == {name: release / name for name in FETCHED}


def test_what_a_folder_lacks_is_fetched(downloads, release):
    found = {name: path for name, path in find_files(release).items() if "order" not in name}
    assert set(complete(found)) == {*found, "train_order.h5", "val_order.h5", "test_order.h5"}
    assert downloads == ["train_order.h5", "val_order.h5", "test_order.h5"]


def test_clips_without_an_event_are_used_where_they_are(downloads, release):
    write_without_event(release)
    assert set(WITHOUT_EVENT) < set(complete(find_files(release)))
    assert downloads == []


def test_with_a_folder_that_has_the_required_files_nothing_is_fetched(downloads, release):
    found = {name: path for name, path in find_files(release).items() if name in REQUIRED}
    assert complete(found) == found
    assert downloads == []


def test_a_download_that_is_cut_off_is_refused(downloads, release):
    os.truncate(release / "visual_feature.h5", 3000)
    with pytest.raises(UserError, match="visual_feature.h5: cut short, 3000 of 48128 bytes"):
        complete({})


def test_the_users_files_are_copied_completely_and_only_once(release, tmp_path):
    copy_files(find_files(release), tmp_path / "work/media")
    (tmp_path / "work/media/labels.h5").write_text("taken in an earlier run")
    copy_files(find_files(release), tmp_path / "work/media")
    assert {path.name for path in (tmp_path / "work/media").iterdir()} == set(find_files(release))
    assert (tmp_path / "work/media/labels.h5").read_text() == "taken in an earlier run"
    assert (release / "labels.h5").stat().st_nlink == 1


@pytest.fixture(scope="module")
def released_run(tmp_path_factory):
    """A project that ran on a release; the folder of the release; and what was printed."""
    folder = tmp_path_factory.mktemp("released")
    release, project = write_release(folder / "release"), Project(folder / "cace")
    printed = project.run(
        "dvc", "exp", "run", "-S", "data.source=released", "-S", f"data.path={release}",
        "-S", "profiles/released.yaml:train.epochs=1",
    )  # fmt: skip
    return project, release, printed


def test_all_stages_run_and_the_users_files_stay_his(released_run):
    project, release, printed = released_run
    assert "row 5, -id05 (train): labels.h5 has Truck 0-5 and Bark 5-8" in printed
    assert project.json("metrics/decode.json")["decode"] == {
        "clips": 23, "rows": 24, "train": 12, "val": 6, "test": 6,
        "without_event": [2], "labels_differ": [5],
    }  # fmt: skip
    store = FeatureStore(project.folder / "data/features.h5")
    assert store.visual.shape == (24, 10, 2, 2, 6)
    assert store.labels[5].tolist() == [0] * 5 + [1] * 3 + [3] * 2
    manifest = (project.folder / "data/media/manifest.csv").read_text()
    assert store.provenance["encoders"]["visual"]["sha256"] in manifest
    assert project.json("metrics/eval.json")["test"]["clips"] == 6
    assert "test.accuracy" in project.run("dvc", "metrics", "show")
    project.run("dvc", "plots", "show")
    for file in release.iterdir():
        assert file.stat().st_nlink == 1
        assert os.access(file, os.W_OK)


def test_matching_has_the_split_of_its_own_order_files(released_run):
    project, _, _ = released_run
    (project.folder / "matching").mkdir(exist_ok=True)
    shutil.copy(ROOT / "matching/dvc.yaml", project.folder / "matching")
    project.run("dvc", "repro", "matching/dvc.yaml:train@distance")
    windows = (project.folder / "data/matching/cells/distance/windows.csv").read_text()
    found = {line.split(",")[0] for line in windows.splitlines()[1:]}
    rows = [row for row in range(ROWS) if SPLIT_OF[row - 1] == "test"]
    ids = [line.split("&")[1] for line in annotation_lines()]
    assert found == {ids[row] for row in rows}


def test_matching_refuses_the_order_files_of_the_other_task(released_run, tmp_path):
    project, _, _ = released_run
    project = project.copy_to(tmp_path / "cace")
    (project.folder / "matching").mkdir(exist_ok=True)
    shutil.copy(ROOT / "matching/dvc.yaml", project.folder / "matching")
    media = project.folder / "data/media"
    (media / "train_order_match.h5").unlink()
    shutil.copy(media / "train_order.h5", media / "train_order_match.h5")
    printed = project.run("python", "-m", "matching.train", "distance", fails=True)
    assert "6 of the 6 rows of test_order_match.h5 are in train_order_match.h5 too" in printed

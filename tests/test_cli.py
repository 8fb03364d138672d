import json
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from cace.cli import doctor, main
from cace.data.annotations import AVE_CATEGORIES, Annotations, Row
from cace.system.files import workspace_root
from tests import fill
from tests.project import ROOT
from tests.stores import write_feature_store


@pytest.fixture
def published(tmp_path):
    """A store that contains the golden clips as its test split, and a published checkpoint."""
    rows = tuple(Row(f"c{k}", 0, 0, 10, "test") for k in range(3))
    data = Annotations(AVE_CATEGORIES, rows)
    store = write_feature_store(tmp_path / "features.h5", data, (7, 7), (512, 128))
    visual, audio = fill.inputs()
    with h5py.File(store, "r+") as file:
        file["visual"][:], file["audio"][:] = visual, audio
        file["labels"][:] = fill.labels().argmax(dim=-1)
    weights = {f"module.{key}": value for key, value in fill.params("Co-Guide").items()}
    torch.save(weights, tmp_path / "published.pth.tar")
    return tmp_path


def evaluate(folder, *options):
    checkpoint, store = folder / "published.pth.tar", folder / "features.h5"
    main(["evaluate", "--checkpoint", str(checkpoint), "--features", str(store), *options])


def test_a_published_checkpoint_is_scored_as_published(published, capsys):
    evaluate(published)
    scores = json.loads(capsys.readouterr().out)
    # The released code gets 9 of these 30 segments right.
    assert scores["accuracy"] == pytest.approx(9 / 30)
    assert scores["clips"] == 3


def test_settings_that_a_published_file_lacks_are_given(published, capsys):
    evaluate(published, "--threshold", "1")
    # Nothing is an event above 1: what is right is the background.
    background = np.mean(fill.labels().argmax(dim=-1).numpy() == 28)
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(background)


def test_the_threshold_and_the_places_are_those_of_the_project(published, monkeypatch, capsys):
    shutil.copytree(ROOT / "profiles", published / "profiles")
    shutil.copyfile(ROOT / "dvc.yaml", published / "dvc.yaml")
    settings = (ROOT / "params.yaml").read_text().replace("threshold: 0.5", "threshold: 1")
    (published / "params.yaml").write_text(settings)
    (published / "data").mkdir()
    (published / "features.h5").rename(published / "data/features.h5")
    monkeypatch.chdir(published / "data")  # not in the top folder
    main(["evaluate", "--checkpoint", "../published.pth.tar"])
    background = np.mean(fill.labels().argmax(dim=-1).numpy() == 28)
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(background)


def test_downloads_and_work_are_in_the_project_from_any_folder_of_it(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    assert workspace_root() == tmp_path
    (tmp_path / "dvc.yaml").unlink()
    assert workspace_root() == tmp_path / "a/b"


@pytest.mark.parametrize("option", ["beta", "psi", "lambda"])
def test_a_setting_of_a_published_checkpoint_is_held_to_its_range(published, option):
    for value in ("nan", "-1", "1e9"):
        with pytest.raises(SystemExit, match=rf"pth.tar: {option}: expected .*, got {value[:1]}"):
            evaluate(published, f"--{option}={value}")


def test_a_checkpoint_of_other_features_is_refused_with_one_message(published):
    write_feature_store(published / "features.h5")
    with pytest.raises(SystemExit) as caught:
        evaluate(published, "--split", "val")
    assert "error: " in str(caught.value)
    assert (
        "expects 512 visual channels (got 16), 128 audio channels (got 8), 28 categories (got 3)"
        in str(caught.value)
    )


def test_a_file_that_is_not_there_is_named(published):
    (published / "published.pth.tar").unlink()
    with pytest.raises(SystemExit, match="published.pth.tar: not there"):
        evaluate(published)


def test_help_needs_neither_torch_nor_pandas():
    code = "import sys; from cace.cli import _parser; _parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "cace.cli" in loaded.split()
    assert not {"torch", "pandas"} & set(loaded.split())


def test_an_interrupt_ends_in_one_word(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", interrupted)
    with pytest.raises(SystemExit) as caught:
        main(["doctor"])
    assert caught.value.code == 130
    assert capsys.readouterr().err == "stopped\n"


def test_a_reader_that_has_enough_is_no_error():
    program = (
        "from cace.cli import doctor, main; doctor.run = lambda _: print('x' * 10**6);"
        "main(['doctor'])"
    )
    command = f'{sys.executable} -c "{program}" | true'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_a_folder_that_was_removed_is_named(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit, match="the current folder has been removed"):
        main(["clean"])


def test_a_program_without_output_still_works(monkeypatch):
    monkeypatch.setattr(doctor, "run", lambda _: print("text", flush=True))
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    main(["doctor"])


def test_an_error_of_a_file_is_one_line_that_names_it(tmp_path, monkeypatch):
    (tmp_path / "a").touch()
    monkeypatch.setattr(doctor, "run", lambda _: (tmp_path / "a/b").read_text())
    with pytest.raises(SystemExit, match="^error: .*a/b: Not a directory$"):
        main(["doctor"])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a/b.csv", "a: cannot create this folder: File exists"),
        ("x" * 300, "File name too long"),
        (".", "expected a file to write, got a folder"),
    ],
)
def test_a_table_that_cannot_be_written_is_named_before_any_work(tmp_path, name, says):
    (tmp_path / "a").touch()
    with pytest.raises(SystemExit, match=says):
        main(["check", str(tmp_path / "no folder"), "--csv", str(tmp_path / name)])


def test_files_are_only_written_where_a_folder_is_named(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(SystemExit, match="need --out DIR, the folder to write to"):
        main(["localize", str(tmp_path / "a.mp4"), "--format", "csv"])


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--threshold", "abc", "expected a number from 0 to 1, got 'abc'"),
        ("--threshold", "nan", "expected a number from 0 to 1, got 'nan'"),
        ("--top", "9" * 5000, "expected a whole number >= 1, got '999"),
        ("--top", "1.5", "expected a whole number >= 1, got '1.5'"),
        ("--format", "json,foo", "got ['foo']"),
        ("--out", "", "expected a path, got ''"),
    ],
)
def test_a_wrong_value_is_answered_with_what_is_expected(option, value, says, capsys):
    with pytest.raises(SystemExit):
        main(["localize", "a.mp4", option, value])
    printed = capsys.readouterr().err
    assert says in printed
    assert "starts with '-'" not in printed  # which is about names

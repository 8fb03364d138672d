"""The pipeline through its front door: DVC in a temporary project, on a few rendered clips."""

import importlib
import json
import re
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cace.cli import main
from cace.system.errors import UserError
from tests.project import Project
from tests.test_kills import start, wait_for_an_epoch, written


@pytest.fixture
def empty(tmp_path):
    """Before any run."""
    return Project(tmp_path / "cace")


def test_one_command_goes_from_clips_to_metrics(project):
    metrics = project.json("metrics/eval.json")
    assert 0 <= metrics["test"]["accuracy"] <= 1
    assert metrics["test"]["accuracy_std"] is None
    assert metrics["test"]["seeds"] == 1
    for name in ("category_accuracy", "event_f1", "background_f1"):
        assert 0 <= metrics["test"][name] <= 1
    expected = {"always_background", "never_background", "visual_only", "audio_only"}
    assert set(metrics["baselines"]) == expected


def test_the_feature_store_holds_what_others_rely_on(project):
    with h5py.File(project.folder / "data/features.h5") as file:
        assert file["visual"].dtype == file["audio"].dtype == np.float16
        assert file["visual"].shape == (15, 10, 2, 2, 1280)
        assert file["audio"].shape == (15, 10, 128)
        assert len(file["categories"]) == 28
        assert file["labels"][:].max() == 28
        assert set(file["split"].asstr()[:]) == {"train", "val", "test"}


def test_a_second_run_does_nothing(project):
    assert "Data and pipelines are up to date" in project.run("dvc", "repro")


def test_nothing_is_left_for_git_to_add(project):
    assert project.run("git", "status", "--porcelain") == ""


def test_predictions_agree_with_the_metrics(project):
    table = pd.read_csv(project.folder / "data/predictions/test.csv")
    accuracy = (table["actual"] == table["predicted"]).mean()
    assert accuracy == pytest.approx(project.json("metrics/eval.json")["test"]["accuracy"])


def test_scoring_a_checkpoint_gives_the_metrics_of_its_run(project, monkeypatch, capsys):
    monkeypatch.chdir(project.folder)
    for file, name in (("best.pt", "test"), ("best_on_test.pt", "best_on_test")):
        main(["evaluate", "--checkpoint", f"data/models/localizer/seed-0/{file}"])
        scores = json.loads(capsys.readouterr().out)
        metrics = project.json("metrics/eval.json")[name]
        assert scores["accuracy"] == metrics["accuracy" if name == "test" else "mean"]


def test_another_run_killed_in_its_training_ends_in_the_same_numbers(project, empty):
    empty.run("dvc", "repro", "extract")
    name = "data/features.h5"
    assert (empty.folder / name).read_bytes() == (project.folder / name).read_bytes()
    running = start(empty, "train")
    wait_for_an_epoch(empty, lambda: running.poll() is None)
    running.kill()
    running.wait()
    assert "train seed-0: epoch 1/2" not in empty.run("python", "-m", "stages.train")
    assert written(empty.folder, "train") == written(project.folder, "train")
    printed = empty.run("python", "-m", "stages.evaluate")
    metrics = project.json("metrics/eval.json")
    assert empty.json("metrics/eval.json") == metrics
    test, best = metrics["test"], metrics["best_on_test"]
    mean, low, high = (100 * test[f"accuracy{end}"] for end in ("", "_low", "_high"))
    assert (
        "segment accuracy on test, percent, 1 seed:\n"
        f"  honest: {mean:.1f} (95 % interval over clips: {low:.1f} to {high:.1f})\n"
        f"  best on test: {100 * best['mean']:.1f}"
    ) in printed


def test_inspect_draws_what_the_pipeline_sees(project):
    id_ = pd.read_csv(project.folder / "data/predictions/test.csv")["id"][0]
    printed = project.run("cace", "inspect", "--out", "seen", "--", id_)
    files = [project.folder / line for line in printed.split()]
    assert [file.name for file in files] == ["contact_sheet.png", "spectrogram.png", "sound.wav"]
    for file in files[:2]:
        assert Image.open(file).size[0] > 1000
    shutil.rmtree(project.folder / "seen")


def test_all_plots_are_drawn_without_a_network(project, visit):
    project.run("cace", "plots")
    project.run("dvc", "plots", "show")
    page = visit(project.folder / "dvc_plots/index.html")
    page.wait_for_function("document.querySelectorAll('svg.marks').length === 6")
    for name in ("Accuracy on val", "Accuracy on test", "recall at 5", "Recall of", "Confusion"):
        assert name in page.content()
    assert "Of the segments with a certainty" in page.content()
    # What is left are remarks of the plotting library about DVC's specifications.
    remarks = "uses Vega v5, but current version|WARN "
    visit.complaints[:] = [text for text in visit.complaints if not re.search(remarks, text)]


def test_the_result_of_a_run_in_one_sentence_has_the_figures_of_its_metrics(project):
    test = project.json("metrics/eval.json")["test"]
    figures = (f"{100 * test[name]:.1f}" for name in ("accuracy", "accuracy_low", "accuracy_high"))
    accuracy, low, high = figures
    assert project.run("cace", "compare", "workspace").strip() == (
        f"On the 5 test clips of mini, cace_net labels {accuracy} % of the segments right (one "
        f"seed; epoch chosen on val; 95 % bootstrap interval over clips {low} to {high} %)."
    )


def test_all_plots_become_pictures(project, tmp_path):
    project.run("cace", "plots", "--png", str(tmp_path), "--base", "main")
    names = {path.stem for path in tmp_path.rglob("*.png") if Image.open(path).width > 100}
    assert names == {"finetune", "seed-0", "per_category", "confusion", "reliability"}
    assert "nobody" in project.run(
        "cace", "plots", "--png", str(tmp_path), "--base", "nobody", fails=True
    )


def test_pictures_of_plots_that_are_not_there_are_one_message(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="run this in the project's top folder"):
        main(["plots", "--png", "out"])
    with pytest.raises(SystemExit, match="--base needs --png DIR"):
        main(["plots", "--base", "main"])


def test_the_page_of_the_run_opens_without_a_network_and_shows_clips(project, visit):
    page = visit(project.folder / "data/predictions/report.html")
    accuracy = project.json("metrics/eval.json")["test"]["accuracy"]
    assert f"{100 * accuracy:.1f} % of the test segments" in page.locator("main").inner_text()
    assert page.locator(".frame:not(details .frame)").count() == 10 * 5  # test clips
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth)")


def test_inspect_of_an_unknown_clip_fails_with_one_message(project):
    printed = project.run("cace", "inspect", "nobody", fails=True)
    assert printed.startswith("error: clip 'nobody': not in this data set of 15 clips")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("decode", "data/frames.json: not there; run `dvc repro frames`"),
        ("finetune", "data/clips/store.json: not there; run `dvc repro decode`"),
        ("extract", "data/models/visual_encoder.pt: not there; run `dvc repro finetune`"),
        ("train", "data/features.h5: not there; run `dvc repro extract`"),
        ("evaluate", "data/features.h5: not there; run `dvc repro extract`"),
    ],
)
def test_a_missing_upstream_file_is_named(empty, monkeypatch, stage, message):
    monkeypatch.chdir(empty.folder)
    with pytest.raises(UserError) as caught:
        importlib.import_module(f"stages.{stage}").main()
    assert str(caught.value) == message


def test_a_failed_stage_prints_its_message_alone(empty):
    empty.run("python", "-m", "stages.frames")
    printed = empty.run("python", "-m", "stages.decode", fails=True)
    assert printed == "error: data/media/manifest.csv: not there; run `dvc repro download`\n"


def test_a_wrong_setting_fails_with_one_message(empty):
    printed = empty.run("dvc", "exp", "run", "-S", "bece.tau=cold", fails=True)
    assert "error: params.yaml, bece.tau: expected a valid number" in printed
    assert "Traceback" not in printed


def test_a_folder_that_is_not_given_is_asked_for(empty):
    printed = empty.run("dvc", "exp", "run", "-S", "data.source=folder", fails=True)
    assert "error: params.yaml, data.path: source folder expects a folder with Annot" in printed


@pytest.fixture
def broken(project, empty):
    """Breaks clips of the media folder, behind the back of the download stage; their ids."""
    shutil.copytree(project.folder / "data/media", empty.folder / "data/media")

    def break_clips(count):
        files = sorted((empty.folder / "data/media/AVE").iterdir())[:count]
        for file in files:
            file.unlink()
            file.write_text("<html>quota exceeded</html>")
        return [file.stem for file in files]

    return break_clips


def test_too_many_bad_clips_stop_the_run_and_leave_no_store(empty, broken):
    bad = broken(3)
    empty.run("python", "-m", "stages.frames")
    printed = empty.run("python", "-m", "stages.decode", fails=True)
    assert "error: decode: 3 of 15 clips cannot be used" in printed
    assert all(f"{id_}: not decodable" in printed for id_ in bad)
    (everything,) = re.findall(r"^(\S+clips\.csv) lists them all", printed, re.MULTILINE)
    assert (~pd.read_csv(everything)["usable"]).sum() == 3
    assert not (empty.folder / "data/clips").exists()


def test_a_few_bad_clips_are_counted_and_left_out(empty, broken):
    profile = empty.folder / "profiles/mini.yaml"
    profile.write_text(profile.read_text().replace("bad_fraction: 0.05", "bad_fraction: 0.2"))
    (bad,) = broken(1)
    empty.run("python", "-m", "stages.frames")
    assert f"{bad}: not decodable" in empty.run("python", "-m", "stages.decode")
    counts = empty.json("metrics/decode.json")["decode"]
    assert counts == {"clips": 15, "used": 14, "refused": 1, "padded": 0}

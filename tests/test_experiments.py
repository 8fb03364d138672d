"""Experiments through DVC's own commands: ablations, queues, branches, other sources."""

import csv
import io
import json
import os
import shutil
from types import SimpleNamespace

import pytest
import yaml

from baselines.tables.rows import WEAK_ROWS
from cace.evaluation import prediction_files
from tests.project import ROOT

STAGES = ("download", "frames", "decode", "finetune", "extract", "train", "evaluate")


def test_an_ablation_trains_again_and_nothing_else(project):
    printed = project.run("dvc", "exp", "run", "--temp", "-S", "bece.lambda=0.4", "-n", "weaker")
    ran = [name for name in STAGES if f"Running stage '{name}'" in printed]
    assert ran == ["train", "evaluate"]
    assert "weaker" in project.run("dvc", "exp", "show", "--csv")
    assert "bece.lambda" in project.run("dvc", "params", "diff", "main", "weaker")
    assert "0.4" in project.run("dvc", "params", "diff", "main", "weaker")
    assert "test.accuracy" in project.run("dvc", "metrics", "diff", "--all", "main", "weaker")


def test_a_queue_of_experiments_runs(project):
    project.run("dvc", "exp", "run", "--queue", "-S", "evaluate.threshold=0.25,0.75")
    project.run("dvc", "exp", "run", "--run-all")
    rows = csv.DictReader(io.StringIO(project.run("dvc", "exp", "show", "--csv")))
    done = {row["evaluate.threshold"]: row["test.accuracy"] for row in rows if row["Executor"]}
    assert set(done) == {"0.25", "0.75"}
    assert all(done.values())


@pytest.fixture(scope="module")
def hostile(project, tmp_path_factory):
    """A run of a folder whose path, category and id would like to be commands."""
    command = "$(touch $STOLEN); `touch $STOLEN`"
    folder = tmp_path_factory.mktemp("hostile")
    clips, stolen = folder / f"my clips {command}", folder / "stolen"
    shutil.copytree(project.folder / "data/media", clips, copy_function=shutil.copyfile)
    (clips / "manifest.csv").unlink()
    first, *_ = sorted((clips / "AVE").iterdir())
    first.rename(first.with_stem(f"-rf {command}"))
    for file in clips.glob("*.txt"):
        text = file.read_text().replace(f"&{first.stem}&", f"&-rf {command}&")
        file.write_text(text.replace("Bark&", f"../../Bark {command}&"))
    printed = project.run(
        "env", f"STOLEN={stolen}",
        "dvc", "exp", "run", "--temp", "-n", "mine", "-S", "profiles/folder.yaml:train.epochs=1",
        "-S", "data.source=folder", "-S", f"data.path='{clips}'",
    )  # fmt: skip
    return SimpleNamespace(clips=clips, stolen=stolen, printed=printed)


def test_a_users_folder_runs_and_its_files_stay_his(hostile):
    assert "Running stage 'evaluate'" in hostile.printed
    for file in (hostile.clips / "AVE").iterdir():
        assert file.stat().st_nlink == 1
        assert os.access(file, os.W_OK)


def test_nothing_that_a_user_names_is_run(hostile):
    assert "Running stage 'evaluate'" in hostile.printed
    assert not hostile.stolen.exists()


def test_an_ablation_cell_becomes_rows_of_the_papers_tables(project, tmp_path):
    project = project.copy_to(tmp_path / "cace")
    shutil.copy(ROOT / "ablations/dvc.yaml", project.folder / "ablations")
    project.run("dvc", "repro", "ablations/dvc.yaml:train@both")
    project.run("dvc", "repro", "ablations/dvc.yaml:train@random")
    cells = project.folder / "data/ablations/cells"
    cell = json.loads((cells / "random/scores.json").read_text())
    assert cell["encoders"]["visual"]["weights"] == "none"
    assert cell["epochs"] == 1
    assert not (cells / "random/best.pt").exists()
    # The other cells take as long each: the same files stand for them.
    saved = project.folder / "metrics/ablations/predictions"
    for name in yaml.safe_load((ROOT / "ablations/params.yaml").read_text())["cells"]:
        if name not in ("random", "both"):
            stands = "both" if name in ("none", "audio") else "random"
            shutil.copytree(cells / stands, cells / name)
            shutil.copy(saved / f"{stands}.csv", saved / f"{name}.csv")
    project.run("python", "-m", "ablations.tables")
    project.run("python", "-m", "ablations.figure_5")
    tables = project.json("metrics/ablations/tables.json")
    (random, _, _), accuracy = tables["table_3"], cell["test"]["accuracy"]
    assert (random["test"]["accuracy"], random["paper"]) == (accuracy, 80.8)
    lines = (project.folder / "metrics/ablations/tables.md").read_text().splitlines()
    (row,) = (line for line in lines if line.startswith("| w/o More Efficient Encoders"))
    cells_of_row = [text.strip() for text in row.split("|")]
    assert cells_of_row[2:4] == ["random", f"{100 * accuracy:.1f}"]
    figure = (project.folder / "data/ablations/figure_5.html").read_text()
    assert [figure.count(f"{mode}: right in") for mode in ("none", "audio", "both")] == [4, 4, 4]


def test_tags_alone_train_a_run_whose_page_says_so(project):
    printed = project.run(
        "dvc", "exp", "run", "-S", "supervision=weak", "-S", "localizer.name=cmran"
    )
    ran = [name for name in STAGES if f"Running stage '{name}'" in printed]
    assert ran == ["train", "evaluate"]
    metrics = project.json("metrics/eval.json")
    assert set(metrics["baselines"]) == {"always_background", "never_background"}
    page = (project.folder / "data/predictions/report.html").read_text()
    assert "of each training clip, one tag was read" in " ".join(page.split())
    # A checkpoint of the other supervision is not scored as if it were of this one.
    params = project.folder / "params.yaml"
    params.write_text(params.read_text().replace("supervision: weak", "supervision: full"))
    said = project.run("python", "-m", "stages.evaluate", fails=True)
    assert "was trained with weak supervision, and params.yaml, supervision, is full" in said
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "checkout", "-q")


def test_a_method_becomes_a_row_of_the_table_of_weak_supervision(project, tmp_path):
    project = project.copy_to(tmp_path / "cace")
    shutil.copy(ROOT / "baselines/dvc.yaml", project.folder / "baselines")
    project.run("dvc", "repro", "baselines/dvc.yaml:train_weak@psp")
    cells = project.folder / "data/weak/cells"
    saved = project.folder / "metrics/weak/predictions/psp.csv"
    # The other methods take as long each: the same files stand for them.
    for row in WEAK_ROWS:
        if row.cell != "psp":
            shutil.copytree(cells / "psp", cells / row.cell)
            shutil.copy(saved, saved.with_stem(row.cell))
    project.run("python", "-m", "baselines.tables", "weak")
    rows = {row["row"]: row for row in project.json("metrics/weak/table.json")["rows"]}
    scores = json.loads((cells / "psp/scores.json").read_text())
    assert rows["PSP"]["test"] == scores["test"]
    table = (project.folder / "metrics/weak/table.md").read_text()
    assert "background recall" in table
    assert "| CSS-Net" in table
    assert "76.8" in table
    assert "Weak supervision on mini" in (project.folder / "data/weak/table.html").read_text()
    said = project.run("cace", "compare", "weak/cace_net", "weak/psp")
    assert "equal" in said


def test_a_method_becomes_a_row_of_table_5(project, tmp_path):
    project = project.copy_to(tmp_path / "cace")
    shutil.copy(ROOT / "baselines/dvc.yaml", project.folder / "baselines")
    project.run("dvc", "repro", "baselines/dvc.yaml:train@psp")
    cells = project.folder / "data/baselines/cells"
    cell = json.loads((cells / "psp/scores.json").read_text())
    saved = project.folder / "metrics/baselines/predictions/psp.csv"
    (labels,) = prediction_files.read(saved.read_text(), "psp.csv").labels.values()
    assert labels.shape == (cell["test"]["clips"], 10)
    # The other methods take as long each: the same files stand for them.
    for file in (ROOT / "baselines/settings").glob("*.yaml"):
        if file.stem != "psp":
            shutil.copytree(cells / "psp", cells / file.stem)
            shutil.copy(saved, saved.with_stem(file.stem))
    project.run("python", "-m", "baselines.tables", "table_5")
    rows = {row["row"]: row for row in project.json("metrics/baselines/table_5.json")["rows"]}
    assert rows["PSP"]["test"]["accuracy"] == cell["test"]["accuracy"]
    assert rows["PSP"]["paper"] == 77.8
    table = (project.folder / "metrics/baselines/table_5.md").read_text()
    assert "no evidence about AVE" in table
    (row,) = (line for line in table.splitlines() if line.startswith("| PSP"))
    shown = [text.strip() for text in row.split("|")]
    assert shown[1:3] == ["PSP", "77.8"]
    assert shown[3] == f"{100 * cell['test']['accuracy']:.1f}"
    page = (project.folder / "data/baselines/table_5.html").read_text()
    assert "right category, never background" in page
    # Settings of another method re-run no cell.
    file = project.folder / "baselines/settings/dam.yaml"
    file.write_text(file.read_text().replace("width: 16", "width: 32"))
    status = project.run("dvc", "status", "baselines/dvc.yaml:train@psp")
    assert "up to date" in status

"""`cace check`: what is in a folder, and what is wrong with it."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from cace.cli import main
from cace.data.annotations import Annotations, Row
from cace.data.sources.folder import find_clips, read_index
from cace.system.errors import UserError
from tests.project import ROOT
from tests.videos import tone, write_video

ROWS = "Bark&{}&good&0&5\n"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four good clips, of two sizes."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "AVE").mkdir()
    for first, name in enumerate(("a", "b", "c")):
        write_video(folder / f"AVE/{name}.mp4", first=first, sound=tone())
    write_video(folder / "AVE/-d.mkv", size=(160, 90), sound=tone(channels=1))
    (folder / "Annotations.txt").write_text("".join(ROWS.format(i) for i in ("a", "b", "c", "-d")))
    return folder


def check(folder, *options):
    main(["check", str(folder), *options])


@pytest.fixture
def messy(clips, tmp_path):
    """The same with a file that is none, one that is not there, and one that nobody annotated."""
    (tmp_path / "AVE").mkdir()
    for path in (clips / "AVE").iterdir():
        (tmp_path / "AVE" / path.name).symlink_to(path)
    (tmp_path / "AVE/html.mp4").write_text("<html>")
    write_video(tmp_path / "AVE/short.mp4", frames=230, sound=tone(9.5))
    (tmp_path / "AVE/extra.mp4").write_text("x")
    rows = [ROWS.format(i) for i in ("a", "b", "c", "-d", "html", "gone", "short")]
    (tmp_path / "Annotations.txt").write_text("".join(rows))
    return tmp_path


def test_a_good_folder_has_no_problems(clips, capsys):
    check(clips)
    printed = capsys.readouterr().out
    for found in (
        "4, of which 4 can be used",
        "train 2, val 1, test 1",
        "Bark (4)",
        "128x96 (3), 160x90 (1)",
        "25 (4)",
        "48000 Hz, stereo (3), 48000 Hz, mono (1)",
        "no problems",
    ):
        assert found in printed


def test_each_problem_is_named_and_the_status_is_not_0(messy, capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        check(messy, "--csv", str(tmp_path / "clips.csv"))
    assert "3 problems:\n  html: not decodable" in str(caught.value)
    assert "\n  gone: no such file\n  2 of 7 clips cannot be used" in str(caught.value)
    assert (
        "What to do before you run this again:\n  replace these clips, or remove their rows"
        in str(caught.value)
    )
    printed = capsys.readouterr().out
    assert "short: padded, with 9.20 s of picture" in printed
    assert "extra.mp4: not annotated, ignored" in printed
    table = pd.read_csv(tmp_path / "clips.csv").set_index("id")
    assert table["usable"].sum() == 5
    assert table.at["short", "padded"]


def test_a_check_that_is_told_to_end_leaves_nothing_behind(clips, tmp_path):
    running = subprocess.Popen(
        [sys.executable, "-c", "from cace.cli import main; main()", "check", clips],
        env={**os.environ, "TMPDIR": str(tmp_path), "CACE_WORKERS": "1"},
        stdout=subprocess.DEVNULL,
    )
    while running.poll() is None and not list(tmp_path.iterdir()):
        time.sleep(0.01)
    running.terminate()
    assert running.wait() == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_a_change_since_indexing_is_a_problem(messy, monkeypatch, capsys):
    make_project(messy)
    monkeypatch.chdir(messy)
    main(["index", "."])
    (messy / "AVE/a.mp4").unlink()
    with pytest.raises(SystemExit) as caught:
        check(messy)
    assert "a: gone since it was indexed" in str(caught.value)


def test_problems_of_rows_splits_and_clips_come_in_one_go(messy, capsys):
    """Nothing that is wrong hides another thing that is wrong."""
    shutil.copyfile(messy / "AVE/a.mp4", messy / "AVE/twin.mp4")
    rows = [f"Bark&{i}&good&0&5" for i in ("a", "b ", "html", "gone")]
    rows += ["bark&-d&good&0&5", "Siren&c&good&0&5", "Siren &twin&good&0&5"]
    bad = ["background&b&good&0&0", "Bark&b&good&0", f"Bark&short&good&0&{'9' * 5000}"]
    (messy / "Annotations.txt").write_text("\n".join(rows + bad))
    for split, lines in (("train", rows[:5]), ("val", []), ("test", rows[5:])):
        (messy / f"{split}Set.txt").write_text("\n".join(lines))
    with pytest.raises(SystemExit) as caught:
        check(messy)
    message = str(caught.value)
    for problem in (
        "Annotations.txt, line 8: expected the category of an event, as background is",
        "Annotations.txt, line 9: expected Category&VideoID",
        "Annotations.txt, line 10: expected whole seconds",
        "valSet.txt: expected rows, got none",
        "html: not decodable",
        "gone: no such file",
        "2 of 7 clips cannot be used",
        "category 'Siren' has no event in train",
        "a, twin: the same file, but not in the same split",
    ):
        assert f"\n  {problem}" in message
    assert "9 problems:" in message
    assert len(message) < 3000
    assert "categories 'Bark' and 'bark' are nearly the same" in capsys.readouterr().out


def test_what_later_stages_lack_or_could_not_learn_is_a_problem(clips, tmp_path):
    shutil.copytree(clips, tmp_path, dirs_exist_ok=True)
    rows = ["Bark&a&good&0&5", "Siren&b&good&3&3", "Siren&c&good&0&5", "Bark&-d&good&2&2"]
    (tmp_path / "Annotations.txt").write_text("\n".join(rows))
    for split, lines in (("train", rows[:2]), ("val", rows[2:3]), ("test", rows[3:])):
        (tmp_path / f"{split}Set.txt").write_text("\n".join(lines))
    (tmp_path / "AVE/c.mp4").write_text("<html>")
    with pytest.raises(SystemExit) as caught:
        check(tmp_path)
    assert (
        "  val: expected usable clips, got none\n"
        "  test: expected rows with an event, got none\n"
        "  category 'Siren' has no event in train, so it cannot be learned\n"
    ) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"supervision: full": "supervision: weak"}, "train: all clips have the same tag, so weak"),
        (
            {"supervision: full": "supervision: weak", "mismatch: 1.0": "mismatch: 0.0"},
            "train: no clip is without an event, which weak supervision needs",
        ),
    ],
)
def test_what_weak_supervision_lacks_is_a_problem_where_the_project_has_it(
    clips, tmp_path, monkeypatch, capsys, changes, problem
):
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    check(clips)  # one category is enough for full supervision
    settings = (tmp_path / "params.yaml").read_text()
    for old, new in changes.items():
        assert old in settings
        settings = settings.replace(old, new)
    (tmp_path / "params.yaml").write_text(settings)
    with pytest.raises(SystemExit, match=f"1 problem:\n  {problem}"):
        check(clips)


def test_names_that_are_not_used_are_remarked(clips, tmp_path, capsys):
    shutil.copytree(clips, tmp_path, dirs_exist_ok=True)
    for name in ("a.mkv", "b.wmv", "C.mp4", "notes.txt", ".hidden"):
        (tmp_path / "AVE" / name).write_text("x")
    (tmp_path / "AVE/link.mp4").symlink_to("gone")
    check(tmp_path)
    printed = capsys.readouterr().out
    for remark in (
        "link.mp4: not used, as it is no file: a folder, a pipe, or a link that leads nowhere",
        "a.mkv: not used, as a.mp4 is",
        "b.wmv: not used, as b.mp4 is",
        "C.mp4: not annotated, ignored; c is",
        "notes.txt: not annotated, ignored",
    ):
        assert f"\n  {remark}\n" in printed
    assert ".hidden" not in printed


@pytest.mark.parametrize("name", ["cafe\u0301.mp4", "caf\u00e9.MP4", " caf\u00e9 .mkv"])
def test_accents_and_spaces_of_file_names_are_as_in_the_annotations(tmp_path, name):
    (tmp_path / "AVE").mkdir()
    (tmp_path / "AVE" / name).touch()
    annotations = Annotations(("Bark",), (Row("caf\u00e9", 0, 0, 5, "train"),))
    assert find_clips(tmp_path, annotations) == {"caf\u00e9": tmp_path / "AVE" / name}


def test_the_limits_are_those_of_the_project(clips, tmp_path, monkeypatch, capsys):
    make_project(tmp_path)
    profile = tmp_path / "profiles/folder.yaml"
    profile.write_text(profile.read_text().replace("min_seconds: 9.0", "min_seconds: 10.0"))
    shutil.copytree(clips, tmp_path / "clips")
    write_video(tmp_path / "clips/AVE/a.mp4", frames=240, sound=tone())
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")  # a folder of the project, too
    with pytest.raises(SystemExit, match="a: 9.60 s of picture, expected at least 10 s"):
        check("../clips")


def test_a_category_that_ave_lacks_is_a_problem_of_source_ave(clips, tmp_path):
    shutil.copytree(clips, tmp_path, dirs_exist_ok=True)
    with (tmp_path / "Annotations.txt").open("a") as file:
        file.write("Quack&a&good&0&5\n")
    with pytest.raises(SystemExit, match="line 5: category 'Quack' is not one of the 28"):
        check(tmp_path, "--source", "ave")


def make_project(folder):
    """The files by which `cace` knows a project."""
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, folder / name)


def test_an_index_is_written_into_the_project_from_any_folder_of_it(clips, tmp_path, monkeypatch):
    make_project(tmp_path)
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")
    main(["index", str(clips)])
    assert (tmp_path / "data/index.csv").is_file()
    assert not (tmp_path / "docs/data").exists()


def test_outside_of_a_project_no_index_is_written(clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="data/index.csv belongs to a project: run this in a"):
        main(["index", str(clips)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"id,file\n",
        b"id,file,bytes,sha256\nT\xfcr,a,1,b\n",
        b'id,file,bytes,sha256\n"a,a.mp4,1,b\n',
        b"id,file,bytes,sha256\na,a.mp4,1,b\na,a.mp4,2,c\n",
        b"id,file,bytes,sha256\na,a.mp4,many,b\n",
        b"id,file,bytes,sha256\na,a.mp4," + b"9" * 5000 + b",b\n",
        b"id,file,bytes,sha256\na,a.mp4,1,b,c,d\n",
    ],
)
def test_a_damaged_index_is_one_message(tmp_path, content):
    (tmp_path / "index.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"index.csv: (not a table|expected UTF-8)") as caught:
        read_index(tmp_path / "index.csv")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["gone", "a" * 300, "a\0b"])
def test_what_is_no_folder_is_named(name):
    with pytest.raises(SystemExit, match="expected a folder"):
        check(name)


def test_checking_changes_nothing_in_the_folder(clips):
    before = sorted((path, path.stat().st_mtime_ns) for path in clips.rglob("*"))
    check(clips)
    assert sorted((path, path.stat().st_mtime_ns) for path in clips.rglob("*")) == before

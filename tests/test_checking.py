"""`cace check`: what is in a folder, and what is wrong with it."""

import pandas as pd
import pytest

from cace.cli import main
from tests.videos import tone, write_video

ROWS = "Bark&{}&good&0&5\n"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four good clips, of two sizes."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "AVE").mkdir()
    for name in ("a", "b", "c"):
        write_video(folder / f"AVE/{name}.mp4", sound=tone())
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
    assert "2 problems:\n  html: not decodable" in str(caught.value)
    assert "\n  gone: no such file" in str(caught.value)
    printed = capsys.readouterr().out
    assert "short: padded, with 9.20 s of picture" in printed
    assert "extra.mp4: not annotated, ignored" in printed
    table = pd.read_csv(tmp_path / "clips.csv").set_index("id")
    assert table["usable"].sum() == 5
    assert table.at["short", "padded"]


def test_a_change_since_indexing_is_a_problem(messy, monkeypatch, capsys):
    monkeypatch.chdir(messy)
    main(["index", "."])
    (messy / "AVE/a.mp4").unlink()
    with pytest.raises(SystemExit) as caught:
        check(messy)
    assert "a: gone since it was indexed" in str(caught.value)


def test_problems_of_the_annotations_come_first(messy):
    (messy / "Annotations.txt").write_text("Bark&a&good&0\n")
    with pytest.raises(SystemExit, match="Annotations.txt, line 1: expected Category&VideoID"):
        check(messy)


def test_checking_changes_nothing_in_the_folder(clips):
    before = sorted((path, path.stat().st_mtime_ns) for path in clips.rglob("*"))
    check(clips)
    assert sorted((path, path.stat().st_mtime_ns) for path in clips.rglob("*")) == before

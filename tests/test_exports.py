"""Files that other programs read, each read back by such a program's reader."""

import base64
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from cace.cli import main
from cace.inference.exports import Writer, to_audacity, to_csv, to_json, to_vtt, videos
from cace.inference.timeline import Decision, Lane, TimedEvent, Timeline
from cace.system.errors import UserError

EVENTS = [
    TimedEvent("Violin, fiddle", 0.0, 3.0, 0.91234),
    TimedEvent("<b>&\n--> 00:01", 3599.0, 3600.5, 0.5),
]


def test_captions_are_read_as_they_were_meant():
    captions = webvtt.from_buffer(io.StringIO(to_vtt(EVENTS))).captions
    assert [(one.start, one.end) for one in captions] == [
        ("00:00:00.000", "00:00:03.000"),
        ("00:59:59.000", "01:00:00.500"),
    ]
    assert captions[0].text == "Violin, fiddle (91%)"
    assert captions[1].raw_text == "&lt;b&gt;&amp; --&gt; 00:01 (50%)"  # no tag, no new line


def test_a_browser_shows_the_captions(tmp_path, visit):
    captions = base64.b64encode(to_vtt(EVENTS).encode()).decode()
    page = tmp_path / "page.html"
    page.write_text(
        f"<link rel=icon href=data:,><video><track default src='data:text/vtt;base64,{captions}'>"
    )
    shown = visit(page)
    shown.wait_for_function("document.querySelector('track').readyState == 2")  # loaded
    read = "[...document.querySelector('track').track.cues].map(c => [c.startTime, c.endTime])"
    assert shown.evaluate(read) == [[0, 3], [3599, 3600.5]]
    text = "document.querySelector('track').track.cues[1].getCueAsHTML().textContent"
    assert shown.evaluate(text) == "<b>& --> 00:01 (50%)"


@given(st.floats(0, 9_000), st.text(min_size=1))
def test_no_name_breaks_out_of_its_caption(start, name):
    text = to_vtt([TimedEvent(name, start, start + 1, 0.5)])
    (caption,) = webvtt.from_buffer(io.StringIO(text)).captions
    assert caption.start_in_seconds == pytest.approx(int(start), abs=1)
    assert caption.raw_text.endswith("(50%)")


def test_csv_is_read_by_pandas():
    table = pd.read_csv(io.StringIO(to_csv(EVENTS)))
    assert list(table.columns) == ["start", "end", "category", "confidence"]
    assert list(table["category"]) == [event.category for event in EVENTS]
    assert table["confidence"][0] == 0.9123


def test_audacity_labels_are_three_columns_a_line():
    lines = to_audacity(EVENTS).splitlines()
    assert [line.split("\t") for line in lines] == [
        ["0.000000", "3.000000", "Violin, fiddle"],
        ["3599.000000", "3600.500000", "<b>& --> 00:01"],
    ]


def video(path):
    path.parent.mkdir(exist_ok=True)
    path.touch()
    return path


def timeline(file):
    rng = np.random.default_rng(0)
    decision = Decision(
        rng.uniform(size=3).astype(np.float32), rng.dirichlet([1, 1], 3).astype(np.float32)
    )
    return Timeline(
        *(file, 3.0, ("a", "</script><script>alert(1)</script>"), decision, decision, decision),
        *(
            {"gate": Lane("both", decision.relevance)},
            rng.uniform(size=(3, 2, 2)).astype(np.float32),
        ),
        *((0.125, 0.0, 0.75, 1.0), ("a remark",), "a model"),
    )


def test_json_holds_every_second(tmp_path):
    line = timeline(tmp_path / "a.mp4")
    content = json.loads(to_json(line, line.events(0.0), 0.0))
    assert content["relevance"] == pytest.approx(line.decision.relevance.tolist(), abs=1e-4)
    assert content["gate"] == content["relevance"]
    assert np.shape(content["category"]) == (3, 2)
    assert np.shape(content["attention"]) == (3, 2, 2)
    assert content["events"][0]["start"] == 0.0
    assert content["remarks"] == ["a remark"]


def test_one_name_gets_all_forms_and_two_videos_never_share_one(tmp_path):
    files = [video(tmp_path / name) for name in ("a.mp4", "b.mkv", "other/b.mkv")]
    writer = Writer(tmp_path / "out", ["json", "csv", "vtt", "audacity", "html"], files)
    written = [writer.write(timeline(file), EVENTS, 0.5) for file in files]
    assert [path.name for path in written[0]] == ["a.json", "a.csv", "a.vtt", "a.txt", "a.html"]
    assert written[1][0].name == "b.mkv.json"
    assert written[2][0].name == "b.mkv-2.json"
    assert all(path.is_file() for paths in written for path in paths)


def test_nothing_of_the_users_is_overwritten(tmp_path):
    file = video(tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_text("my notes")
    with pytest.raises(UserError, match=r"exist already; .* --overwrite.*\n.*a\.txt"):
        Writer(tmp_path, ["csv", "audacity"], [file])
    Writer(tmp_path, ["csv", "audacity"], [file], overwrite=True).write(timeline(file), EVENTS, 0.5)
    assert (tmp_path / "a.txt").read_text() == to_audacity(EVENTS)


def test_no_video_is_ever_replaced_by_its_result(tmp_path):
    file = video(tmp_path / "a.txt")
    with pytest.raises(UserError, match="exist already"):
        Writer(tmp_path, ["audacity"], [file], overwrite=True)


def test_what_cannot_be_a_folder_is_named_before_any_work(tmp_path):
    file = video(tmp_path / "a.mp4")
    with pytest.raises(UserError, match=r"a\.mp4: cannot create this folder: File exists"):
        Writer(file, ["csv"], [file])


def test_a_video_too_large_for_a_browser_is_not_embedded(tmp_path):
    file = video(tmp_path / "a.mp4")
    with file.open("r+b") as large:
        large.truncate(300_000_000)  # takes no room on the disk
    with pytest.raises(UserError, match="at most 200 MB; without --embed the page links"):
        Writer(tmp_path / "out", ["html"], [file], embed=True)


def test_a_page_shows_the_events_it_is_given(tmp_path):
    file = video(tmp_path / "a.mp4")
    (page,) = Writer(tmp_path, ["html"], [file]).write(timeline(file), EVENTS[:1], 0.0)
    assert "1 event in" in page.read_text()


def test_a_page_names_a_category_without_running_it(tmp_path):
    writer = Writer(tmp_path, ["html"], [video(tmp_path / "a.mp4")])
    (page,) = writer.write(timeline(tmp_path / "a.mp4"), [], 0.0)
    assert not re.search(r"<script>alert", page.read_text())


def test_truth_is_read_from_the_rows_of_the_file_s_name(tmp_path):
    (tmp_path / "Annotations.txt").write_text(
        "A bell&a&good&2&5\nA dog&b&good&0&10\nA dog&c&good&0&10\n"
    )
    writer = Writer(tmp_path, ["html"], [video(tmp_path / "a.mp4")], truth=tmp_path)
    (page,) = writer.write(timeline(tmp_path / "a.mp4"), [], 0.5)
    assert "A bell" in page.read_text()
    assert "A dog" not in page.read_text()


def test_a_video_without_a_row_has_no_truth_rather_than_an_empty_one(tmp_path):
    (tmp_path / "Annotations.txt").write_text("A dog&b&good&0&10\n")
    file = video(tmp_path / "a.mp4")
    pages = []
    for name, truth in (("with", tmp_path), ("without", None)):
        writer = Writer(tmp_path / name, ["html"], [file], truth=truth)
        pages.append(writer.write(timeline(file), [], 0.5)[0].read_text())
    assert pages[0] == pages[1]


def test_a_folder_gives_its_videos_each_once(tmp_path):
    for name in ("b.MKV", "a.mp4", "notes.txt", "deep/c.webm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [path.name for path in videos([tmp_path / "b.MKV", tmp_path])]
    assert names == ["b.MKV", "a.mp4", "c.webm"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="expected videos in it, found none"):
        videos([tmp_path / "empty"])
    (tmp_path / "link").symlink_to(tmp_path / "a.mp4")
    (tmp_path / "._a.mp4").touch()
    assert len(videos([tmp_path / "link", tmp_path])) == 3
    with pytest.raises(UserError, match="no such file or folder"):
        videos([tmp_path / "gone.mp4"])


def test_linked_subfolders_are_walked_and_circles_end(tmp_path):
    (tmp_path / "videos/sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("videos/a.mp4", "videos/sub/b.vob", "elsewhere/c.QT"):
        (tmp_path / name).touch()
    (tmp_path / "videos/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "videos/sub/up").symlink_to(tmp_path / "videos")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "videos")
    (tmp_path / "videos/broken.mp4").symlink_to(tmp_path / "gone")
    names = [path.name for path in videos([tmp_path / "videos"])]
    assert sorted(names) == ["a.mp4", "b.vob", "c.QT"]


def test_what_is_left_out_of_a_folder_is_named(tmp_path, monkeypatch):
    for name in ("a.mp4", "b.gif", "c.WAV", "d.rm", "notes.txt", "._e.mp4"):
        (tmp_path / name).touch()
    locked = tmp_path / "locked"
    locked.mkdir()
    scandir = os.scandir

    def refuse(path):
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    left_out = []
    assert videos([tmp_path], left_out) == [tmp_path / "a.mp4"]
    named = sorted(Path(line.split(":")[0]).name for line in left_out)
    assert named == ["b.gif", "c.WAV", "d.rm", "locked"]
    assert f"{locked}: Permission denied" in left_out


def test_links_that_lead_nowhere_and_pipes_are_named(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "b.mp4").symlink_to("gone")
    (tmp_path / "c.mp4").symlink_to("c.mp4")
    os.mkfifo(tmp_path / "d.mp4")
    left_out = []
    assert videos([tmp_path], left_out) == [tmp_path / "a.mp4"]
    named = sorted(Path(line.split(":")[0]).name for line in left_out)
    assert named == ["b.mp4", "c.mp4", "d.mp4"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["a.csv", ".cace-localize.jsonl"])
def test_a_folder_in_the_place_of_a_file_is_named_before_any_work(tmp_path, name, overwrite):
    (tmp_path / "out" / name).mkdir(parents=True)
    file = video(tmp_path / "a.mp4")
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "out" / name))):
        Writer(tmp_path / "out", ["csv"], [file], overwrite=overwrite)


def test_a_record_that_is_damaged_is_no_record(tmp_path):
    lines = ["\xff", "[1, 2, 3]", "[[], 2, 3]", "null", "9" * 6000, "[" * 100_000, '["a", "x"']
    (tmp_path / ".cace-localize.jsonl").write_text("\n".join(lines), encoding="latin-1")
    assert not Writer(tmp_path, ["csv"], [video(tmp_path / "a.mp4")]).finished


def test_the_command_names_what_it_leaves_out(tmp_path, capsys):
    (tmp_path / "a.gif").touch()
    with pytest.raises(
        SystemExit, match="expected videos in it, found none\\n  .*a.gif: not a video"
    ):
        main(["localize", str(tmp_path)])

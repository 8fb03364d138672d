"""`cace localize` as users meet it: folders of videos, names, interruptions, full disks."""

import errno
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cace import cli
from cace.inference import exports, models
from cace.inference.localize import EventLocalizer
from cace.inference.models import load
from cace.inference.page import _decision
from cace.inference.timeline import Training
from cace.localizers.dam import Dam
from cace.localizers.parts import checkpoints
from cace.system.errors import UserError
from cace.system.tables import markdown, spreadsheet
from tests.models import SIZES, write_model
from tests.project import ROOT
from tests.timelines import timeline
from tests.videos import tone, write_video

FORMATS = ("json", "csv", "vtt", "txt", "html")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(write_model(tmp_path_factory.mktemp("model")) / "seed-0/best.pt")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Two seconds."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_video(path, frames=20, fps=10, sound=tone(2.0))


class Localize:
    """`cace localize` with a model that is loaded already."""

    def __init__(self, model):
        self.model = model

    def __call__(self, *arguments):
        cli.main(["localize", *map(str, arguments)])


@pytest.fixture
def localize(model, monkeypatch, tmp_path):
    """The command, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    command = Localize(model)
    monkeypatch.setattr(models, "load", lambda *_, **__: command.model)  # once for all tests
    return command


@pytest.fixture
def looked_at(monkeypatch):
    """Names of the videos that were localized."""
    names = []
    localize = EventLocalizer.localize

    def noted(self, video, **options):
        names.append(video.name)
        return localize(self, video, **options)

    monkeypatch.setattr(EventLocalizer, "localize", noted)
    return names


def videos(folder, clip, *names):
    folder.mkdir()
    for name in names:
        shutil.copyfile(clip, folder / name)
    return folder


@pytest.mark.parametrize(
    "name",
    ["x" * 246 + ".mp4", "音" * 81 + ".mp4", "x" * 252 + ".ts", "音" * 84 + ".ts"],
    ids=["letters", "japanese", "cut", "cut japanese"],
)
def test_names_near_the_limit_are_cut_if_necessary_and_all_videos_are_done(
    localize, clip, tmp_path, name
):
    folder = videos(tmp_path / "videos", clip, "a.mp4", name, "ö.mp4")
    localize(folder, "--out", "out", "--format", "csv,html")
    pages = {path.stem for path in (tmp_path / "out").glob("*.html")}
    (long,) = pages - {"a", "ö"}
    stem, most = name.rpartition(".")[0], 255 - len(".html")
    assert stem.startswith(long)
    assert len(long.encode()) in range(min(len(stem.encode()), most - 2), most + 1)
    assert len(list((tmp_path / "out").glob("*.csv"))) == 3


def test_names_that_are_cut_alike_stay_apart(tmp_path):
    files = [tmp_path / f"{'x' * 249}{letter}.m4" for letter in "ab"]
    first, second = exports._names(files, 250)
    assert first == "x" * 249 + "a" and second == "x" * 249 + "b"
    assert exports._names(files, 200) == ["x" * 200, "x" * 198 + "-2"]


def test_a_numbered_name_is_never_that_of_another_video(tmp_path):
    files = [tmp_path / name for name in ("b.mkv", "other/b.mkv", "b.mkv-2.avi")]
    assert len(set(exports._names(files, 250))) == 3


def test_an_oserror_of_one_video_does_not_end_the_batch(localize, clip, tmp_path, monkeypatch):
    folder = videos(tmp_path / "videos", clip, "a.mp4", "b.mp4", "c.mp4")
    write = exports.write_atomically

    def with_a_folder_in_the_way(path, content):
        if path.name == "b.csv":
            path.mkdir()
        write(path, content)

    monkeypatch.setattr(exports, "write_atomically", with_a_folder_in_the_way)
    with pytest.raises(SystemExit, match=r"1 of 3 videos failed:\n  out/b.csv: Is a directory"):
        localize(folder, "--out", "out", "--format", "csv")
    assert (tmp_path / "out/c.csv").is_file()


def test_a_name_that_no_file_can_have_is_answered_in_a_sentence(localize):
    with pytest.raises(SystemExit, match="x: File name too long"):
        localize("x" * 300)


@pytest.mark.parametrize("stopped_at", [0, 3, 5, 8])  # of ten files of two videos
def test_a_stopped_run_continues(localize, looked_at, clip, tmp_path, monkeypatch, stopped_at):
    folder = videos(tmp_path / "videos", clip, "a.mp4", "b.mp4")
    write, written = exports.write_atomically, []

    def interrupted(path, content):
        if len(written) == stopped_at:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(exports, "write_atomically", interrupted)
        with pytest.raises(SystemExit):
            localize(folder, "--out", "out")
    before = {path: path.stat().st_ino for path in (tmp_path / "out").glob("a.*")}
    looked_at.clear()
    localize(folder, "--out", "out")
    finished = stopped_at >= len(FORMATS)
    assert looked_at == (["b.mp4"] if finished else ["a.mp4", "b.mp4"])
    if finished:
        assert before == {path: path.stat().st_ino for path in before}
    names = sorted(path.name for path in (tmp_path / "out").glob("[!.]*"))
    assert names == sorted(f"{stem}.{ending}" for stem in "ab" for ending in FORMATS)


def test_a_full_disk_stops_at_once_and_names_the_folder(
    localize, looked_at, clip, tmp_path, monkeypatch, capsys
):
    folder = videos(tmp_path / "videos", clip, "a.mp4", "b.mp4", "c.mp4")
    synced = []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) > len(FORMATS):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def leave(status):
        raise SystemExit(status)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr(os, "_exit", leave)
        with pytest.raises(SystemExit):
            localize(folder, "--out", "out")
    assert looked_at == ["a.mp4", "b.mp4"]
    assert "error: out/b.json: No space left on device." in capsys.readouterr().err
    assert not list((tmp_path / "out").glob(".*.tmp"))
    looked_at.clear()
    localize(folder, "--out", "out")
    assert looked_at == ["b.mp4", "c.mp4"]
    assert "videos/a.mp4: skipped" in capsys.readouterr().out


@pytest.mark.parametrize("change", [("--threshold", "0.7"), ("--top", "1"), ("--embed",)])
def test_files_of_a_run_with_other_settings_are_not_taken_for_this_one(localize, clip, change):
    localize(clip, "--out", "out", "--format", "csv")
    localize(clip, "--out", "out", "--format", "csv")
    with pytest.raises(SystemExit, match="exist already"):
        localize(clip, "--out", "out", "--format", "csv", *change)


def test_files_of_another_model_are_not_taken_for_this_one(tmp_path):
    paths = [write_model(tmp_path) / f"seed-{seed}/best.pt" for seed in range(2)]
    first, second, again = (load(path).identity for path in (*paths, paths[0]))
    assert first == again != second


def test_files_of_another_video_of_the_name_are_not_taken_for_this_one(localize, clip, tmp_path):
    folder = videos(tmp_path / "videos", clip, "a.mp4")
    localize(folder, "--out", "out")
    write_video(folder / "a.mp4", frames=30, fps=10, sound=tone(3.0))
    with pytest.raises(SystemExit, match="exist already"):
        localize(folder, "--out", "out")
    localize(folder, "--out", "out", "--overwrite")
    localize(folder, "--out", "out")


def test_a_folder_that_cannot_be_written_to_is_named_before_any_work(
    localize, looked_at, clip, tmp_path, monkeypatch
):
    def refused(**_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(SystemExit, match="out: cannot write to this folder: Permission denied"):
        localize(clip, "--out", "out")
    assert not looked_at


def test_changed_truth_is_noticed_however_the_name_writes_its_accent(localize, clip, tmp_path):
    folder = videos(tmp_path / "videos", clip, "cafe\u0301.mp4")
    rows = tmp_path / "Annotations.txt"
    options = (folder, "--out", "out", "--format", "html", "--truth", ".")
    rows.write_text("dog&caf\u00e9&good&0&1\n")
    localize(*options)
    localize(*options)
    rows.write_text("dog&caf\u00e9&good&0&2\n")
    with pytest.raises(SystemExit, match="exist already"):
        localize(*options)


def test_a_model_whose_path_is_not_utf8_is_named(localize, model, clip, tmp_path):
    localize.model = model._replace(model=os.fsdecode(b"mod\xe9l: AVEL"))
    localize(clip, "--out", "out")
    assert json.loads((tmp_path / "out/clip.json").read_text())["model"] == "mod?l: AVEL"
    assert "mod?l: AVEL" in (tmp_path / "out/clip.html").read_text()


def trained_on(model, source, *categories):
    return model._replace(training=Training(source, categories or None))


def test_a_model_says_what_it_was_trained_on(localize, model, clip, capsys):
    localize(clip)
    assert "trained on an unknown source" in capsys.readouterr().out
    localize.model = trained_on(model, "ave", "dog", "horn")
    localize(clip)
    printed = capsys.readouterr().out
    assert (
        "trained on the clips of AVE (source ave), with clips of 2 of its 3 categories: dog; horn"
    ) in printed
    assert "drawings" not in printed


def test_a_model_of_drawings_says_so_loudly(localize, model, clip, tmp_path, capsys):
    localize.model = trained_on(model, "mini", "dog", "horn")
    localize(clip, "--out", "out", "--threshold", "1")
    assert "This model knows drawings only" in capsys.readouterr().out
    content = json.loads((tmp_path / "out/clip.json").read_text())
    assert content["source"] == "mini"
    assert content["trained_categories"] == ["dog", "horn"]
    assert content["warning"].startswith("This model knows drawings only")
    page = (tmp_path / "out/clip.html").read_text()
    assert '<p class="warning" role="note">This model knows drawings only' in page
    assert (
        "one of the 2 categories that it was trained on is both seen and heard: dog; horn." in page
    )


def test_only_categories_with_training_clips_are_named():
    found = timeline(Path("a.mp4"), "0011", ("Bark", "Flute", "Horn"))
    assert {event.category for event in found.events()} == {"Bark", "Flute"}
    found = found._replace(training=Training("ave", ("Flute", "Horn")))
    (event,) = found.events()  # Flute comes first where Flute and Horn have 0.1 each
    assert event[:3] == ("Flute", 0.0, 4.0)
    assert event.confidence == pytest.approx(0.9 * (0.1 + 0.1 + 0.8 + 0.8) / 4)
    best = _decision(found.decision, found.known)["best"]
    assert [[index for index, _ in second] for second in best] == [[1, 2]] * 4


def test_what_a_checkpoint_says_of_its_training_is_read(tmp_path):
    path = write_model(tmp_path, source="mini", trained_categories=["dog"])
    assert load(path).training == Training("mini", ("dog",))
    assert load(write_model(tmp_path)).training == Training(None, None)


def test_seeds_of_different_methods_are_refused(tmp_path):
    write_model(tmp_path)
    (tmp_path / "seed-2").mkdir()
    shutil.copy(tmp_path / "avel.pt", tmp_path / "seed-2/best.pt")
    with pytest.raises(UserError, match="its seeds are of different methods"):
        load(tmp_path)


def test_a_reconstruction_is_called_one(tmp_path):
    about = checkpoints.read(write_model(tmp_path) / "avel.pt").about
    checkpoints.save(tmp_path / "dam.pt", "dam", Dam(SIZES, width=16), about)
    model = load(tmp_path / "dam.pt").model
    assert "(DAM, a reconstruction: dimensions, the attention" in model
    assert "(AVEL) on" in load(tmp_path / "avel.pt").model


def test_a_model_that_knew_tags_alone_says_so(tmp_path):
    about = checkpoints.read(write_model(tmp_path) / "avel.pt").about
    checkpoints.save(
        tmp_path / "dam.pt", "dam", Dam(SIZES, width=16), {**about, "supervision": "weak"}
    )
    model = load(tmp_path / "dam.pt").model
    assert "(DAM with weak supervision, a reconstruction: dimensions" in model


CONTROL = "\x1b[2J\x07\r\x9b\N{RIGHT-TO-LEFT OVERRIDE}\nnext line"
ESCAPED = r"\x1b[2J\x07\r\x9b\u202e\nnext line"


def test_names_cannot_control_the_terminal(localize, model, clip, tmp_path, capfd):
    folder = videos(tmp_path / "videos", clip, f"a{CONTROL}.mp4")
    (folder / f"b{CONTROL}.mp4").write_text("no video")
    categories = (f"x|{CONTROL}", "y", "z")
    localize.model = model._replace(
        categories=categories, training=Training(f"s{CONTROL}", categories), model=f"m{CONTROL}"
    )
    with pytest.raises(SystemExit) as ended:
        localize(folder, "--out", "out", "--threshold", "0")
    out, err = capfd.readouterr()
    for printed in (out, str(ended.value)):
        assert not {c for c in printed if c != "\n" and not c.isprintable()}
    for name in ("a", "b", "m", "s", "x|"):
        assert f"{name}{ESCAPED}" in out
    assert f"b{ESCAPED}.mp4: " in str(ended.value)
    assert "\x07" not in err  # where the bar is
    with pytest.raises(SystemExit):
        localize(clip, "--format", f"x{CONTROL}")
    with pytest.raises(SystemExit):
        localize(clip, "--x\x1b[2J")
    err = capfd.readouterr().err
    assert r"--x\x1b[2J" in err
    assert not {c for c in err if c != "\n" and not c.isprintable()}


def test_text_of_digits_and_bars_stays_as_it_is_in_tables():
    table = pd.DataFrame({"category": ["007", "1e3", "a|b", "nan"], "clips": [1, 2, 3, 4]})
    rows = [line.split(" | ")[0].strip("| ") for line in markdown(table).splitlines()[2:]]
    assert rows == ["007", "1e3", r"a\|b", "nan"]


@pytest.mark.parametrize("name", ["=cmd()", "+1", "-1", "@sum", "\t=1", "\r=1"])
def test_a_spreadsheet_computes_no_name(name):
    text = spreadsheet(pd.DataFrame({"category": [name, "Türklingel"], "start": [-1.5, 0.0]}))
    assert text.encode().startswith(b"\xef\xbb\xbf")
    read = pd.read_csv(io.StringIO(text))
    assert list(read["category"]) == ["'" + name.replace("\r", " "), "Türklingel"]
    assert list(read["start"]) == [-1.5, 0.0]


def test_a_video_that_is_decoded_apart_gives_the_same_timeline(model, tmp_path):
    cut = write_video(tmp_path / "cut.mkv", frames=20, fps=10, sound=tone(2.0))
    cut.write_bytes(cut.read_bytes()[:-5_000])
    write_video(tmp_path / "silent.mp4", frames=20, fps=10, sound=0 * tone(2.0))
    for path in tmp_path.iterdir():
        here, apart = model.localize(path), model.localize(path, deadline_seconds=60.0)
        assert np.array_equal(here.decision.relevance, apart.decision.relevance)
        assert here.remarks == apart.remarks != ()
        assert (here.seconds, here.view) == (apart.seconds, apart.view)


def test_the_deadline_is_that_of_the_project(localize, clip, tmp_path, monkeypatch):
    deadlines = []

    def noted(self, video, deadline_seconds, **options):
        deadlines.append(deadline_seconds)
        raise UserError("enough")

    monkeypatch.setattr(EventLocalizer, "localize", noted)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    profile = tmp_path / "profiles/mini.yaml"
    text = profile.read_text()
    assert "deadline_seconds: 120.0" in text
    profile.write_text(text.replace("deadline_seconds: 120.0", "deadline_seconds: 77.0"))
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")
    with pytest.raises(SystemExit):
        localize(clip)
    (tmp_path / "params.yaml").unlink()  # no project any more
    with pytest.raises(SystemExit):
        localize(clip)
    assert deadlines == [77.0, 120.0]


def test_a_video_that_is_not_decoded_in_time_is_refused_and_the_next_one_is_done(
    localize, clip, tmp_path, monkeypatch, capsys
):
    folder = videos(tmp_path / "videos", clip, "a.mp4", "b.mp4")
    in_time = EventLocalizer.localize

    def hurried(self, video, deadline_seconds, **options):
        deadline_seconds = 0.0 if video.name == "a.mp4" else deadline_seconds
        return in_time(self, video, deadline_seconds=deadline_seconds, **options)

    monkeypatch.setattr(EventLocalizer, "localize", hurried)
    with pytest.raises(SystemExit, match="(?s)1 of 2 .*a.mp4: the decoder: nothing within 0 s"):
        localize(folder)
    assert "b.mp4 (2.0 s)" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "shown"), [("a.mkv", 5.0), ("a.ts", 0.0)])
def test_only_where_players_show_a_file_s_own_times_is_its_start_late(model, tmp_path, name, shown):
    times = [5 + k / 10 for k in range(20)]
    sound = {"sound": tone(2.0), "sound_start": 5.0}
    path = write_video(tmp_path / name, frames=20, fps=10, times=times, **sound)
    found = model.localize(path)
    assert found.starts_at == pytest.approx(shown, abs=0.05)
    assert found.seconds == pytest.approx(2.0, abs=0.05)
    told = [remark for remark in found.remarks if remark.startswith("players show")]
    assert len(told) == (shown > 0)

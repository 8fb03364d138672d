"""A user's own folder: used as it is, and its changes are noticed."""

import shutil
from pathlib import Path

import pytest
import yaml

from cace.cli import main
from cace.data.sources import folder
from cace.data.sources.collect import collect_folder
from cace.paths import INDEX
from cace.system.errors import UserError
from stages import download
from tests.workspaces import make_workspace, work_of

ROOT = Path(__file__).parent.parent
CLIPS = ("one.mp4", "two.mkv", "three.webm", "-four.MOV", "five.avi")  # cameras write capitals


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A workspace whose source is a folder of five clips of one category."""
    workspace, clips = tmp_path / "project", tmp_path / "clips"
    shutil.copytree(ROOT / "profiles", workspace / "profiles")
    (workspace / "data").mkdir()
    shutil.copy(ROOT / INDEX, workspace / INDEX)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"].update(source="folder", path=str(clips))
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))
    (clips / "AVE").mkdir(parents=True)
    for name in CLIPS:
        (clips / "AVE" / name).write_bytes(name.encode() * 100)
    rows = "".join(f"Bark&{Path(name).stem}&good&0&5\n" for name in CLIPS)
    (clips / "Annotations.txt").write_text(rows)
    make_workspace(workspace, monkeypatch)
    return clips


def taken():
    return {path.name: path.read_bytes() for path in Path("data/media/AVE").iterdir()}


def test_clips_of_all_containers_are_copied_as_they_are(project):
    download.main()
    assert taken() == {path.name: path.read_bytes() for path in (project / "AVE").iterdir()}


def test_a_folder_that_is_as_indexed_is_accepted(project, capsys):
    main(["index", str(project)])
    assert (
        "data/index.csv: 5 clips and 1 annotation files, 6 of them new" in capsys.readouterr().out
    )
    download.main()
    assert "not indexed" not in capsys.readouterr().out


def test_a_damaged_index_is_refused_before_the_clips_are_hashed(project, monkeypatch):
    monkeypatch.setattr(folder, "sha256", lambda path: pytest.fail(f"hashed {path}"))
    INDEX.write_text("[]")
    with pytest.raises(SystemExit, match="index.csv: not a table of `cace index`"):
        main(["index", str(project)])


def test_without_an_index_the_user_is_warned(project, capsys):
    download.main()
    assert "this folder is not indexed" in capsys.readouterr().out


ROWS = "Annotations.txt: changed"


def edit(path, old, new):
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda clips: (clips / "AVE/one.mp4").write_text("x"), "one: changed"),
        (lambda clips: (clips / "AVE/one.mp4").unlink(), "one: gone"),
        (lambda clips: shutil.copy(clips / "AVE/one.mp4", clips / "AVE/six.mp4"), "six: added"),
        (lambda clips: edit(clips / "Annotations.txt", "five&good&0", "five&good&1"), ROWS),
        (lambda clips: edit(clips / "Annotations.txt", "Bark&five", "Flute&five"), ROWS),
    ],
)
def test_a_change_after_indexing_is_named(project, change, message):
    with (project / "Annotations.txt").open("a") as file:
        file.write("Bark&six&good&0&5\n")
    main(["index", str(project)])
    change(project)
    with pytest.raises(UserError, match=f"changed since it was indexed in .*\n  {message}\n"):
        download.main()
    assert not Path("data/media").exists()


def test_an_annotated_clip_without_a_file_is_named(project, capsys):
    (project / "AVE/two.mkv").unlink()
    main(["index", str(project)])
    assert "annotated, but without a file:\n  two\n" in capsys.readouterr().out


def test_changed_rows_are_not_copied_over_the_work_on_the_old_ones(project, monkeypatch):
    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "copy_file", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            download.main()
        edit(project / "Annotations.txt", "five&good&0", "five&good&1")
    assert len(work_of(Path(), "download")) == 2


def test_a_killed_download_leaves_no_incomplete_file(project, monkeypatch):
    class Killed(BaseException):
        pass

    calls = iter(range(3))
    copy_file = folder.copy_file

    def killed(source, target):
        if next(calls, None) is None:
            target.with_name(f".{target.name}.1.tmp").write_text("half")
            raise Killed
        copy_file(source, target)

    monkeypatch.setattr(folder, "copy_file", killed)
    with pytest.raises(Killed):
        download.main()
    monkeypatch.setattr(folder, "copy_file", copy_file)
    download.main()
    assert set(taken()) == set(CLIPS)


@pytest.mark.parametrize("path", ["~nosuchuser/clips", "a" * 300, "gone", "1000.0"])
def test_a_data_path_that_is_no_folder_is_one_message(project, path):
    with pytest.raises(UserError, match="params.yaml, data.path: expected a (path|folder), got"):
        collect_folder(Path("data/media"), "folder", Path(path))

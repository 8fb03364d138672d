"""The archive of AVE, in small: five rows of three categories, four clips, all splits."""

import errno
import os
import random
import shutil
import stat
import zipfile
from functools import partial
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from cace.data.sources import ave, collect
from cace.data.sources.ave import Counts, check, unpack
from cace.system.errors import UserError
from stages import download
from tests.workspaces import make_workspace

ROOT = Path(__file__).parent.parent
HEADER = "Category&VideoID&Quality&StartTime&EndTime\n"
ROWS = (  # row 1 and row 4 are one file with two categories; ids may begin with a dash
    ("Church bell", "-bell", "train"),
    ("Male speech, man speaking", "talk", "train"),
    ("Bark", "_dog", "val"),
    ("Bark", "dog2", "test"),
    ("Church bell", "talk", "test"),
)
SMALL = Counts(rows=5, ids=4, train=2, val=1, test=2)


def text_files(rows=ROWS, header=HEADER):
    def text(kept):
        return header + "".join(f"{category}&{id_}&good&0&10\n" for category, id_, _ in kept)

    files = {"Annotations.txt": text(rows)}
    for split in ("train", "val", "test"):
        files[f"{split}Set.txt"] = text([row for row in rows if row[2] == split])
    return files


def ave_files(rows=ROWS, header=HEADER):
    clips = {f"AVE/{id_}.mp4": f"clip {id_}" * 100 for _, id_, _ in rows}
    return {"ReadMe.txt": "read me", **text_files(rows, header), **clips}


def write_zip(path, files, top="AVE_Dataset/", extra=()):
    """extra: members as (name or ZipInfo, content), where they stand under no top folder."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(top + name, content)
        for name, content in extra:
            archive.writestr(name, content)
    return path


@pytest.fixture
def archive(tmp_path):
    return write_zip(tmp_path / "AVE_Dataset.zip", ave_files())


def files_under(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


WANTED = set(ave_files()) - {"ReadMe.txt"}


@pytest.mark.parametrize("top", ["", "AVE_Dataset/", "a/b/"])
@pytest.mark.parametrize("header", ["", HEADER])
def test_an_archive_is_unpacked_wherever_its_top_folder_is(tmp_path, top, header):
    archive = write_zip(tmp_path / "a.zip", ave_files(header=header), top)
    unpack(archive, tmp_path / "media")
    assert files_under(tmp_path / "media") == WANTED
    assert (tmp_path / "media/AVE/-bell.mp4").read_text() == "clip -bell" * 100
    annotations = check(tmp_path / "media", SMALL)
    assert annotations.rows[4] == ("talk", 0, 0, 10, "test")


def test_unpacking_resumes_where_it_was_stopped(archive, tmp_path):
    media = tmp_path / "media"
    unpack(archive, media)
    whole, cut = media / "AVE/-bell.mp4", media / "AVE/talk.mp4"
    written = whole.stat().st_mtime_ns
    cut.write_text("half")
    (media / "AVE/dog2.mp4").unlink()
    unpack(archive, media)
    assert whole.stat().st_mtime_ns == written
    assert cut.read_text() == "clip talk" * 100
    assert files_under(media) == WANTED


def special(kind):
    info = zipfile.ZipInfo("AVE_Dataset/AVE/evil.mp4")
    info.create_system = 3  # Unix
    info.external_attr = (kind | 0o777) << 16
    return info


def raw(name):
    """A member name that zipfile would correct when it writes."""
    info = zipfile.ZipInfo("x")
    info.filename = name
    return info


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ("../evil.mp4", "a path with .."),
        ("AVE_Dataset/AVE/../../../evil.mp4", "a path with .."),
        ("AVE_Dataset/..", "a path with .."),
        ("/evil.mp4", "an absolute path"),
        ("C:/evil.mp4", "an absolute path"),
        ("C:evil.mp4", "an absolute path"),
        (raw("..\\evil.mp4"), "a backslash"),
        (raw("AVE_Dataset\\AVE\\evil.mp4"), "a backslash"),
        (raw("AVE_Dataset/AVE/evil.mp4\0.txt"), "a backslash or a zero byte"),
        (special(stat.S_IFLNK), "a link"),
        (special(stat.S_IFCHR), "a device, pipe or socket"),
        (special(stat.S_IFBLK), "a device, pipe or socket"),
        (special(stat.S_IFIFO), "a device, pipe or socket"),
        (special(stat.S_IFSOCK), "a device, pipe or socket"),
    ],
)
def test_a_member_that_could_leave_the_folder_is_named_and_nothing_is_unpacked(
    tmp_path, member, reason
):
    name = getattr(member, "filename", member)
    inner = tmp_path / "inner"
    inner.mkdir()
    archive = write_zip(inner / "a.zip", ave_files(), extra=[(member, "/etc/passwd")])
    before = files_under(tmp_path)
    with pytest.raises(UserError) as caught:
        unpack(archive, inner / "media")
    assert f"{name!r}: {reason}" in str(caught.value)
    assert files_under(tmp_path) == before
    assert not Path("/evil.mp4").exists()


def test_a_file_that_macos_wrote_beside_a_clip_is_no_clip(tmp_path):
    extra = [("AVE_Dataset/AVE/._a.mp4", "x")]
    unpack(write_zip(tmp_path / "a.zip", ave_files(), extra=extra), tmp_path / "media")
    assert files_under(tmp_path / "media") == WANTED
    check(tmp_path / "media", SMALL)


def test_all_dangerous_members_are_named_at_once(tmp_path):
    extra = [("../one", ""), ("/two", ""), (special(stat.S_IFLNK), "/etc")]
    archive = write_zip(tmp_path / "a.zip", ave_files(), extra=extra)
    with pytest.raises(UserError, match=r"(?s)got 3 members.*'\.\./one'.*'/two'.*evil\.mp4"):
        unpack(archive, tmp_path / "media")


def test_an_id_with_path_parts_is_never_written(tmp_path):
    extra = [(f"AVE_Dataset/AVE/{name}", "x") for name in ("a/b.mp4", "a:b.mp4", "a.exe", ".mp4")]
    archive = write_zip(tmp_path / "a.zip", ave_files(), extra=[*extra, ("run.sh", "x")])
    unpack(archive, tmp_path / "media")
    assert files_under(tmp_path / "media") == WANTED


def test_what_is_outside_of_the_layout_is_left_in_the_archive(tmp_path):
    extra = [("__MACOSX/AVE_Dataset/._Annotations.txt", "x"), ("other/AVE/x.mp4", "x")]
    archive = write_zip(tmp_path / "a.zip", ave_files(), extra=extra)
    unpack(archive, tmp_path / "media")
    assert files_under(tmp_path / "media") == WANTED


def test_an_encrypted_archive_is_refused(archive, tmp_path):
    content = bytearray(archive.read_bytes())
    entry = content.index(b"PK\x01\x02")  # of the central directory; its flags are byte 8
    content[entry + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match="ReadMe.txt': encrypted"):
        unpack(archive, tmp_path / "media")


def test_an_archive_of_something_else_is_refused(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"readme.md": "x"})
    with pytest.raises(UserError, match="expected one Annotations.txt, with trainSet.txt.*got 0"):
        unpack(archive, tmp_path / "media")


def test_an_archive_without_a_split_file_is_refused(tmp_path):
    files = {name: text for name, text in ave_files().items() if name != "valSet.txt"}
    archive = write_zip(tmp_path / "a.zip", files)
    with pytest.raises(UserError, match="got no valSet.txt"):
        unpack(archive, tmp_path / "media")


def damage(content):
    """Makes the first byte of a clip's packed data one that nothing packed begins with."""
    name = b"AVE_Dataset/AVE/talk.mp4"
    at = content.index(name) + len(name)
    return content[:at] + b"\xff" + content[at + 1 :]


@pytest.mark.parametrize(
    "change", [lambda b: b[:-30], lambda _: b"<html>quota</html>", damage, lambda _: b""]
)
def test_a_damaged_archive_is_named_and_a_damaged_clip_not_written(archive, tmp_path, change):
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(UserError, match=r"AVE_Dataset\.zip: expected a complete zip file, got"):
        unpack(archive, tmp_path / "media")
    assert not (tmp_path / "media/AVE/talk.mp4").exists()


def test_without_room_on_the_disk_nothing_is_unpacked(archive, tmp_path, monkeypatch):
    usage = ave.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(ave.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="GB of free space"):
        unpack(archive, tmp_path / "media")
    assert files_under(tmp_path / "media") == set()


def test_every_difference_is_listed_with_its_row(tmp_path):
    rows = (ROWS[2], *ROWS[:2], *ROWS[3:])
    files = ave_files(rows)
    del files["AVE/talk.mp4"]
    files["AVE/stray.mp4"] = "x"
    unpack(write_zip(tmp_path / "a.zip", files), tmp_path / "media")
    with pytest.raises(UserError) as caught:
        check(tmp_path / "media", SMALL._replace(rows=6, train=3))
    reason, *lines = str(caught.value).splitlines()
    assert "8 differences from the published data set" in reason
    assert lines[:-1] == [
        "  rows: expected 6, got 5",
        "  train: expected 3, got 2",
        "  row 0: category 'Bark' appears as number 0, expected 'Church bell'",
        "  row 1: category 'Church bell' appears as number 1, expected 'Male speech, man speaking'",
        "  row 2: category 'Male speech, man speaking' appears as number 2, expected 'Bark'",
        "  row 2, talk (Male speech, man speaking, train): no AVE/talk.mp4",
        "  row 4, talk (Church bell, test): no AVE/talk.mp4",
        "  AVE/stray.mp4: in no row",
    ]


def test_the_published_counts_are_the_default(archive, tmp_path):
    unpack(archive, tmp_path / "media")
    with pytest.raises(UserError, match="rows: expected 4143, got 5"):
        check(tmp_path / "media")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A workspace that contains only settings, with source ave; a call changes them."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    make_workspace(tmp_path, monkeypatch)
    monkeypatch.setattr(ave, "check", partial(check, published=SMALL))

    def change(*overrides):
        apply_overrides("params.yaml", ["data.source=ave", *overrides])

    return change


@pytest.fixture
def asked(archive, monkeypatch):
    """The names of what was fetched; the archive is the small one."""
    names = []

    def fetch(files):
        names.extend(file.name for file in files)
        return [archive.with_name(file.name) for file in files]

    monkeypatch.setattr(collect, "fetch", fetch)
    return names


def test_the_stage_fetches_the_archive_with_the_weights_and_publishes_the_clips(
    project, asked, tmp_path
):
    project()
    download.main()
    assert asked == ["AVE_Dataset.zip", "resnet50-11ad3fa6.pth", "Cnn14_mAP=0.431.pth"]
    assert files_under(tmp_path / "data/media") == {*WANTED, "manifest.csv"}
    (kept,) = (tmp_path / ".work/download").glob("*/media")  # until DVC has recorded it
    for file in kept.rglob("*.mp4"):
        assert file.samefile(tmp_path / "data/media" / file.relative_to(kept))


def test_the_stage_uses_the_users_archive(project, asked, archive, tmp_path):
    archive.rename(tmp_path / "mine.zip")
    project("data.archive=mine.zip")
    download.main()
    assert asked == ["resnet50-11ad3fa6.pth", "Cnn14_mAP=0.431.pth"]
    assert files_under(tmp_path / "data/media") == {*WANTED, "manifest.csv"}


def test_the_stage_publishes_nothing_that_differs_from_what_was_published(
    project, asked, archive, tmp_path
):
    write_zip(archive, {n: text for n, text in ave_files().items() if n != "AVE/dog2.mp4"})
    project()
    with pytest.raises(UserError, match=r"row 3, dog2 \(Bark, test\): no AVE/dog2.mp4"):
        download.main()
    assert not (tmp_path / "data/media").exists()


def test_an_archive_that_is_not_there_is_named(project, asked):
    project("data.archive=none.zip")
    with pytest.raises(UserError, match=r"data.archive: expected a zip file, got '.*none.zip'"):
        download.main()


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_archive_is_one_message_wherever_the_damage_is(tmp_path, capsys, kind):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", kind) as archive:
        for name, content in ave_files().items():
            archive.writestr(name, content)
    good, rng = (tmp_path / "a.zip").read_bytes(), random.Random(0)
    refused = 0
    for _ in range(60):
        data = bytearray(good)
        data[rng.randrange(len(data))] = rng.choice((0, 255, rng.randrange(256)))
        data[-1 - rng.randrange(600)] = rng.choice((0, 255))  # in the table of contents
        (tmp_path / "a.zip").write_bytes(data)
        shutil.rmtree(tmp_path / "media", ignore_errors=True)
        try:
            unpack(tmp_path / "a.zip", tmp_path / "media")
        except UserError as error:
            refused += 1
            assert str(error).startswith(f"{tmp_path / 'a.zip'}: ")
    assert refused > 30


def test_a_place_outside_the_archive_is_damage_and_a_full_disk_is_not(
    archive, monkeypatch, tmp_path
):
    def fails_with(number):
        def fail(*_, **__):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(zipfile.ZipFile, "open", fail)

    fails_with(errno.EINVAL)
    with pytest.raises(UserError, match="got a damaged one .*Invalid argument"):
        unpack(archive, tmp_path / "media")
    fails_with(errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        unpack(archive, tmp_path / "media")

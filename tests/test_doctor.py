"""`cace doctor`, in a project of its own."""

import shutil

import pytest

from tests.project import Project


@pytest.fixture
def fresh(tmp_path):
    return Project(tmp_path / "cace")


def test_a_fresh_project_has_nothing_to_mend(fresh):
    printed = fresh.run("cace", "doctor")
    for found in ("on branch main", "source mini", "weights of logmel", "GB free"):
        assert found in printed
    assert "not run yet: download, decode, finetune, extract, train, evaluate" in printed
    assert "!" not in printed


def test_a_detached_head_left_by_a_killed_experiment_is_mended(fresh):
    fresh.run("git", "checkout", "-q", "--detach")
    fresh.run("git", "update-ref", "refs/exps/exec/EXEC_BASELINE", "HEAD")
    printed = fresh.run("cace", "doctor", fails=True)
    assert "! git                          on a detached HEAD" in printed
    assert "`git checkout main` and `git update-ref -d refs/exps/exec/EXEC_BASELINE`" in printed
    fresh.run("git", "checkout", "-q", "main")
    fresh.run("git", "update-ref", "-d", "refs/exps/exec/EXEC_BASELINE")
    assert "!" not in fresh.run("cace", "doctor")


def test_wrong_settings_are_named(fresh):
    params = fresh.folder / "params.yaml"
    params.write_text(params.read_text().replace("tau: 0.01", "tau: cold"))
    assert "params.yaml, bece.tau: expected a valid number" in fresh.run(
        "cace", "doctor", fails=True
    )


def test_missing_weights_are_named_with_their_link_and_place(fresh):
    profile = fresh.folder / "profiles/mini.yaml"
    profile.write_text(profile.read_text().replace("efficientnet_lite0", "vgg19"))
    printed = fresh.run("cace", "doctor", fails=True)
    assert "! weights of vgg19             not here" in printed
    assert "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth" in printed


def test_a_folder_that_is_not_as_indexed_is_named(fresh, tmp_path):
    clips = tmp_path / "clips"
    (clips / "AVE").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (clips / f"AVE/{name}.mp4").write_text(name)
    (clips / "Annotations.txt").write_text("".join(f"Bark&{i}&good&0&3\n" for i in "abc"))
    params = fresh.folder / "params.yaml"
    text = params.read_text().replace("source: mini", "source: folder")
    params.write_text(text.replace("  path:", f"  path: {clips}"))
    assert "! data.path" in fresh.run("cace", "doctor", fails=True)
    fresh.run("cace", "index", str(clips))
    assert "3 clips, as indexed" in fresh.run("cace", "doctor")
    shutil.copy(clips / "AVE/a.mp4", clips / "AVE/b.mp4")
    (clips / "AVE/c.mp4").write_text("longer")
    assert "not as indexed" in fresh.run("cace", "doctor", fails=True)

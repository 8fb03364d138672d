"""`cace doctor`, in a separate project."""

import os
import shutil

import pytest
import timm

from cace.cli import main
from cace.system.errors import UserError
from cace.system.scratch import scratch
from cace.tools import doctor
from stages import frames
from tests import forks
from tests.project import Project
from tests.tiny_models import save_audio


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A project that has not run yet, as the current folder."""
    project = Project(tmp_path / "cace")
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("DVC_ROOT", str(project.folder))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", project.environment["DVC_SITE_CACHE_DIR"])
    monkeypatch.setenv("PATH", f"{forks.programs()}{os.pathsep}{project.environment['PATH']}")
    return project


def fixes():
    """What was found and how to fix it, for each thing that is wrong, by its name."""
    return {line.what: f"{line.found}: {line.fix}" for line in doctor.examine() if line.fix}


def test_a_fresh_project_has_nothing_to_fix(fresh):
    printed = fresh.run("cace", "doctor")
    for found in ("on branch main", "source mini", "weights of logmel", "GB free"):
        assert found in printed
    assert "not run yet: download, frames, decode, finetune, extract, train, evaluate" in printed
    assert "!" not in printed


def test_what_is_wrong_is_marked_and_the_status_is_not_0(monkeypatch, capsys):
    findings = [doctor.Finding("git", "no repository", "`git init`"), doctor.Finding("dvc", "3.60")]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    with pytest.raises(SystemExit, match="1 of 2 to fix, marked with !"):
        main(["doctor"])
    git, fix, dvc = capsys.readouterr().out.splitlines()
    assert git.split() == ["!", "git", "no", "repository"]
    assert fix.strip() == "`git init`"
    assert dvc.split() == ["dvc", "3.60"]


def test_a_detached_head_left_by_a_killed_experiment_is_fixed(fresh):
    fresh.run("git", "checkout", "-q", "--detach")
    fresh.run("git", "update-ref", "refs/exps/exec/EXEC_BASELINE", "HEAD")
    found, fix = fixes()["git"].split(": ")
    assert found.startswith("on a detached HEAD")
    for command in fix.split(" and "):
        fresh.run(*command.strip("`").split())
    assert fixes() == {}


def test_a_checkout_of_another_owner_is_no_missing_repository(fresh, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    found = fixes()["git"]
    assert f"{fresh.folder} belongs to {fresh.folder.owner()}, and this is " in found
    assert found.endswith(f"`git config --global --add safe.directory {fresh.folder}`")


@pytest.mark.parametrize(
    ("broken", "what", "message"),
    [
        (".git/config", "git", "bad config line 1 in file"),
        (".git/HEAD", "git", "no repository"),  # as git itself has it
        ("dvc.lock", "DVC's cache", "dvc.lock is damaged, as after a kill"),
        ("dvc.yaml", "dvc.yaml", "DVC cannot read it: './dvc.yaml' is invalid."),
        (".dvc/config", "DVC's cache", "`dvc data status --json` failed: "),
    ],
)
def test_a_command_that_fails_is_no_empty_answer(fresh, broken, what, message):
    (fresh.folder / "dvc.lock").write_text("schema: '2.0'\n")
    (fresh.folder / broken).write_text("[[nothing\n")
    assert message in fixes()[what]


def test_a_setting_that_dvc_misses_is_named_with_the_file_that_uses_it(fresh):
    dvc = fresh.folder / "dvc.yaml"
    dvc.write_text(dvc.read_text().replace("${data.source}", "${data.sauce}"))
    assert "Could not find 'data.sauce'" in fixes()["dvc.yaml"]


def test_a_list_of_files_in_use_that_a_kill_left_empty_is_named_and_the_fix_works(fresh):
    (fresh.folder / ".dvc/tmp").mkdir(exist_ok=True)
    (fresh.folder / ".dvc/tmp/rwlock").touch()
    assert "Unable to read RWLock-file" in fresh.run("dvc", "status", fails=True)
    found, fix = fixes()["dvc"].rsplit(": `", 1)
    assert found.startswith(".dvc/tmp/rwlock is damaged, as after a kill")
    fresh.run(*fix.partition("`")[0].split())
    fresh.run("dvc", "status")
    assert fixes() == {}


def test_work_of_interrupted_runs_is_shown_and_removed_by_a_command(fresh, capsys):
    with pytest.raises(KeyboardInterrupt), scratch("decode", "a") as work:
        (work / "shard").write_text("x")
        raise KeyboardInterrupt
    with scratch("train", "a"):
        pass
    (fresh.folder / ".work/downloads").mkdir()
    found = {line.what: line.found for line in doctor.examine()}
    assert f"decode/{work.name} (0.0 GB) in {fresh.folder}/.work: " in found["unfinished work"]
    assert "`cace clean`" in found["unfinished work"]
    assert found["finished work"].startswith("train/")
    with scratch("decode", "b"):
        main(["clean"])
        lines = capsys.readouterr().out.splitlines()
        assert sorted(line.split(": ")[1] for line in lines) == ["in use, stays", *["removed"] * 2]
    main(["clean"])
    assert capsys.readouterr().out.endswith(": removed\n")
    main(["clean"])
    assert capsys.readouterr().out == f"{fresh.folder}/.work: nothing to remove\n"
    left = [path.name for path in (fresh.folder / ".work").glob("*/*") if path.is_dir()]
    assert left == [] and (fresh.folder / ".work/downloads").is_dir()


def test_a_path_that_dvc_cannot_use_for_temporary_runs_is_named(fresh, monkeypatch, tmp_path):
    for name, strange in (("plain", None), ("Klänge", "ä"), ("run#3", "#"), ("who?", "?")):
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / name))
        (tmp_path / name).mkdir()
        found = {line.what: line.found for line in doctor.examine()}.get("project's folder")
        assert found is None if strange is None else f"under a path with {strange}; " in found


def test_wrong_settings_are_named(fresh):
    params = fresh.folder / "params.yaml"
    params.write_text(params.read_text().replace("tau: 0.01", "tau: cold"))
    assert "params.yaml, bece.tau: expected a valid number" in fixes()["settings"]


def test_missing_weights_are_named_with_their_link_and_place(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("CACE_DATA", str(tmp_path))
    monkeypatch.setattr(doctor.torch.hub, "get_dir", lambda: str(tmp_path))
    profile = fresh.folder / "profiles/mini.yaml"
    profile.write_text(profile.read_text().replace("efficientnet_lite0", "vgg19"))
    found = fixes()["weights of vgg19"]
    assert found.startswith("not here: ")
    assert "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth" in found
    assert found.endswith(f"into {tmp_path}")


def test_what_the_cache_of_dvc_lacks_is_named(fresh):
    (fresh.folder / "data/media").mkdir()
    (fresh.folder / "data/media/Annotations.txt").write_text("Bark&a&good&0&3")
    fresh.run("dvc", "commit", "-f", "download")
    assert fixes() == {}
    shutil.rmtree(fresh.folder / ".dvc/cache")
    assert fixes()["DVC's cache"].startswith("lacks data/media/ in ")


def test_a_folder_that_is_not_as_indexed_is_named(fresh, tmp_path):
    clips = tmp_path / "clips"
    (clips / "AVE").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (clips / f"AVE/{name}.mp4").write_text(name)
    (clips / "Annotations.txt").write_text("".join(f"Bark&{i}&good&0&3\n" for i in "abc"))
    params = fresh.folder / "params.yaml"
    text = params.read_text().replace("source: mini", "source: folder")
    params.write_text(text.replace("  path:", f"  path: {clips}"))
    assert "not as indexed" in fixes()["data.path"]
    main(["index", str(clips)])
    assert fixes() == {}
    (clips / "AVE/c.mp4").write_text("longer")
    assert "not as indexed" in fixes()["data.path"]


def use(project, visual, visual_weights, audio):
    profile = project.folder / "profiles/mini.yaml"
    text = profile.read_text().replace("efficientnet_lite0", visual).replace("logmel", audio)
    text = text.replace("visual_weights: imagenet", f"visual_weights: {visual_weights}")
    profile.write_text(text.replace("audio_weights: none", "audio_weights: pretrained"))


def test_weights_of_libraries_are_found_where_they_are(fresh, hub_cache):
    network = timm.create_model("test_vit")
    snapshot = hub_cache("timm/test_vit.r160_in1k", {"model.safetensors": network.state_dict()})
    save_audio(fresh.folder / "data/weights/ast", "ast")
    use(fresh, "timm/test_vit", "pretrained", "hf/data/weights/ast")
    found = {line.what: line.found for line in doctor.examine()}
    assert found["weights of timm/test_vit"] == str(snapshot / "model.safetensors")
    assert found["weights of hf/data/weights/ast"] == "data/weights/ast"
    assert fixes() == {}


def test_missing_weights_of_libraries_are_named_with_their_address_and_place(fresh, hub_cache):
    use(fresh, "timm/resnet18", "pretrained", "hf/someone/ast")
    for what, where in (
        ("timm/resnet18", "https://huggingface.co/timm/resnet18.a1_in1k"),
        ("hf/someone/ast", "https://huggingface.co/someone/ast"),
    ):
        found = fixes()[f"weights of {what}"]
        assert "not downloaded (a stage does it when it needs it)" in found
        assert where in found
        assert "put it into data/weights/" in found


@pytest.mark.parametrize("name", ["timm/test_vit", "resnet50"])
def test_a_missing_file_of_weights_is_named_before_any_work(fresh, name):
    save_audio(fresh.folder / "data/weights/ast", "ast")
    (fresh.folder / "data/weights/ast/model.safetensors").unlink()
    use(fresh, name, "data/weights/none.pth", "hf/data/weights/ast")
    found = fixes()
    assert "weights data/weights/none.pth: not there" in found[f"weights of {name}"]
    assert "has no model.safetensors" in found["weights of hf/data/weights/ast"]
    with pytest.raises(UserError, match=r"weights data/weights/none.pth: not there"):
        frames.main()
    assert not (fresh.folder / "data/frames.json").exists()


def test_a_wrong_name_of_a_network_is_named(fresh):
    use(fresh, "timm/resnet_18", "none", "hf/data/weights/none")
    assert "the nearest names: timm/resnet18" in fixes()["weights of timm/resnet_18"]

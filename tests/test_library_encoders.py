"""Encoders of libraries through the front door: `dvc repro`, `dvc exp run` and `cace localize`."""

import re
import shutil
import zipfile
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from dvc.utils.hydra import apply_overrides

import cace
from cace.encoders.audio import audio_encoder
from cace.encoders.frames import frames_for
from cace.encoders.visual import visual_encoder
from cace.features.store import FeatureStore
from cace.localizers.cace_net import CaceNet
from cace.localizers.parts import checkpoints
from cace.localizers.parts.protocol import Sizes
from cace.media.store import Frames, as_stored
from cace.media.video import decode_segments
from cace.settings import load_params
from cace.system.errors import UserError
from stages.frames import main as frames_stage
from tests.models import CATEGORIES
from tests.project import ROOT, Project
from tests.test_experiments import STAGES
from tests.test_export import rewritten
from tests.tiny_models import save_audio, save_visual
from tests.videos import sweep, write_video

CHANGES = {
    "visual: efficientnet_lite0": "visual: timm/test_vit",
    "visual_weights: imagenet": "visual_weights: data/weights/vit",
    "audio: logmel": "audio: hf/data/weights/ast",
    "audio_weights: none": "audio_weights: pretrained",
    "short_side: 68": "short_side: auto",
    "crop: 64": "crop: auto",
    "  epochs: 1\n  maps_epochs": "  layers: 1\n  precision: bfloat16\n  epochs: 1\n  maps_epochs",
    "  batch_size: 20\n": "  batch_size: 20\n  grid: 5\n",
}


@pytest.fixture(scope="module")
def run(project, tmp_path_factory):
    """After `dvc repro` with models that were saved to folders."""
    copy = project.copy_to(tmp_path_factory.mktemp("libraries") / "cace")
    save_visual(copy.folder / "data/weights/vit")
    save_audio(copy.folder / "data/weights/ast", "ast")
    profile = copy.folder / "profiles/mini.yaml"
    text = profile.read_text()
    for old, new in CHANGES.items():
        assert old in text
        text = text.replace(old, new, 1)
    profile.write_text(text)
    copy.run("dvc", "repro")
    return copy


def test_the_whole_pipeline_runs_with_models_from_folders(run):
    assert run.json("data/frames.json") == {
        "short_side": 168,
        "crop": 160,
        "interpolation": "bicubic",
    }
    with h5py.File(run.folder / "data/features.h5") as file:
        assert file["visual"].shape == (15, 10, 5, 5, 64)
        assert file["audio"].shape == (15, 10, 16)
    assert 0 <= run.json("metrics/eval.json")["test"]["accuracy"] <= 1


def test_the_store_says_how_its_features_were_made(run):
    provenance = FeatureStore(run.folder / "data/features.h5").provenance
    visual, audio = (provenance["encoders"][name] for name in ("visual", "audio"))
    assert (visual["name"], visual["weights"]) == ("timm/test_vit", "data/weights/vit")
    assert (audio["name"], audio["weights"]) == ("hf/data/weights/ast", "pretrained")
    assert visual["finetuned_epochs"] == 1
    settings = provenance["settings"]
    assert (settings["crop"], settings["interpolation"], settings["grid"]) == (160, "bicubic", 5)


def test_a_model_on_them_localizes_a_video(run):
    (clip, *_) = sorted((run.folder / "data/media/AVE").iterdir())
    printed = run.run("cace", "localize", str(clip), "--out", "found")
    assert clip.name in printed
    assert list((run.folder / "found").iterdir())


def test_a_model_on_them_is_shared_as_one_file(run, tmp_path, monkeypatch):
    (clip, *_) = sorted((run.folder / "data/media/AVE").iterdir())
    run.run("cace", "export", str(tmp_path / "a.cace"))
    found = {}
    for folder, model in ((run.folder, "data/models/localizer"), (tmp_path, "a.cace")):
        monkeypatch.chdir(folder)
        found[model] = cace.load(model).localize(clip).decision.relevance
    assert np.array_equal(found["a.cace"], found["data/models/localizer"])
    with pytest.raises(
        UserError, match="b.cace: expected config.json and preproc.*, got 1 of them"
    ):
        cace.load(rewritten("a.cace", tmp_path / "b.cace", without=["audio_encoder/config.json"]))
    with zipfile.ZipFile("b.cace", "a") as archive:
        settings = zipfile.Path("a.cace", "audio_encoder/config.json").read_text()
        changed = settings.replace('"num_attention_heads": 2', '"num_attention_heads": 4')
        archive.writestr("audio_encoder/config.json", changed)
    with pytest.raises(UserError, match="b.cace: the files of its audio encoder were changed"):
        cace.load("b.cace")


def test_other_weights_in_the_folder_are_refused_by_their_hash(run):
    (clip, *_) = sorted((run.folder / "data/media/AVE").iterdir())
    weights = run.folder / "data/weights/ast"
    weights.rename(weights.with_name("before"))
    save_audio(weights, "ast", seed=4)
    printed = run.run("cace", "localize", str(clip), fails=True)
    assert "expected the audio encoder that the localizer was trained with (hf/data/" in printed
    save_audio(weights, "ast")


def test_an_experiment_with_a_network_of_timm_runs(project):
    printed = project.run(
        "dvc", "exp", "run", "--temp", "-n", "resnet",
        "-S", "profiles/mini.yaml:encoders.visual=timm/resnet18",
        "-S", "profiles/mini.yaml:encoders.visual_weights=none",
    )  # fmt: skip
    ran = [name for name in STAGES if f"Running stage '{name}'" in printed]
    # It was trained on frames that were scaled in another way, so they are decoded again.
    assert ran == ["frames", "decode", "finetune", "extract", "train", "evaluate"]


def test_an_encoder_that_reads_the_same_frames_decodes_nothing_again(project, tmp_path):
    copy = project.copy_to(tmp_path / "cace")
    profile = copy.folder / "profiles/mini.yaml"
    text = profile.read_text().replace("efficientnet_lite0", "resnet50")
    profile.write_text(text.replace("visual_weights: imagenet", "visual_weights: none"))
    printed = copy.run("dvc", "repro", "decode")
    assert "Running stage 'frames'" in printed
    assert "Stage 'decode' didn't change, skipping" in printed


def test_a_size_that_does_not_fit_stops_the_run_before_it_decodes(project):
    printed = project.run(
        "dvc", "exp", "run", "--temp", "-S", "profiles/mini.yaml:decode.crop=60",
        "-S", "profiles/mini.yaml:encoders.visual=timm/test_vit",
        "-S", "profiles/mini.yaml:encoders.visual_weights=none",
        fails=True,
    )  # fmt: skip
    assert "decode.crop: timm/test_vit does not read frames of 60 pixels" in printed
    assert "set 160 and decode.short_side 168, or both to auto" in printed
    assert "Running stage 'decode'" not in printed


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("weights: imagenet", "weights: data/weights/vit", "weights/vit.*: do not fit the net"),
        ("audio: logmel", "audio: hf/data/weights/vit", "hf/data/weights/vit: has no prep"),
    ],
)
def test_encoders_that_cannot_be_used_are_refused_before_anything_is_decoded(
    tmp_path, monkeypatch, old, new, message
):
    folder = Project(tmp_path / "cace").folder
    save_visual(folder / "data/weights/vit")
    profile = folder / "profiles/mini.yaml"
    assert old in profile.read_text()
    profile.write_text(profile.read_text().replace(old, new))
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=message):
        frames_stage()
    assert not Path("data/frames.json").exists()


# --- the commands of the documentation


def documented(source):
    page = (ROOT / "docs/encoders.md").read_text().replace("\\\n", "")
    (command,) = re.findall(rf"^dvc exp run --temp .*data.source={source} .*$", page, re.MULTILINE)
    return re.findall(r"-S (\S+)", command)


@pytest.mark.parametrize("source", ["ave", "folder"])
def test_the_settings_of_strong_encoders_are_valid(source, tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    for override in documented(source):
        file, _, change = override.rpartition(":")
        apply_overrides(str(tmp_path / (file or "params.yaml")), [change])
    params = load_params(tmp_path)
    assert params.data.source == source
    decode, encoders = params.decode, params.encoders
    assert encoders.audio == "hf/MIT/ast-finetuned-audioset-10-10-0.4593"
    size = frames_for(encoders.visual, decode.short_side, decode.crop, params.extract.grid)
    assert size == Frames(224, 224, "bicubic")


# --- the windows of a video


FRAMES = {
    "fps": 2,
    "short_side": 68,
    "crop": 64,
    "interpolation": "bicubic",
    "jpeg_quality": 90,
    "precision": "float32",
    "grid": 2,
}
ABOUT = {
    "categories": CATEGORIES,
    "frames": FRAMES,
    "encoders": {
        "visual": {"name": "timm/test_vit", "weights": "none", "finetuned_epochs": 0},
        "audio": {"name": "hf/data/weights/ast", "weights": "pretrained", "license": "mit"},
    },
}


@pytest.fixture
def localizer(tmp_path, monkeypatch):
    """One that is saved as model.pt, in the current folder."""
    monkeypatch.chdir(tmp_path)
    save_audio(tmp_path / "data/weights/ast", "ast")
    torch.manual_seed(0)
    network = CaceNet(Sizes(64, 16, categories=3, positions=4), width=32)
    network.start_epoch(1.0)
    checkpoints.save(tmp_path / "model.pt", "cace_net", network, ABOUT)
    return network.eval()


@torch.inference_mode()
def test_each_window_of_a_video_hears_its_own_ten_seconds(localizer, tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=130, fps=10, sound=sweep(13))
    see = visual_encoder("timm/test_vit", "none")
    hear = audio_encoder("hf/data/weights/ast", "pretrained")
    how = {name: FRAMES[name] for name in ("fps", "short_side", "crop", "interpolation")}
    decoded = decode_segments(path, **how, damaged=print, remark=print)
    seen, sounds = [], []
    for segment in islice(decoded, 13):
        frames, sound = as_stored(segment.frames, segment.sound, FRAMES["jpeg_quality"])
        maps = see(torch.from_numpy(frames)).mean(dim=0)  # 4 x 4
        seen.append(maps.unflatten(2, (2, 2)).unflatten(1, (2, 2)).mean(dim=(2, 4)))
        sounds.append(torch.from_numpy(sound))
    relevance = np.zeros((2, 13))
    for row, start in enumerate((0, 3)):
        window = slice(start, start + 10)
        visual = torch.stack(seen[window]).permute(0, 2, 3, 1)
        out = localizer(visual[None], hear(torch.stack(sounds[window]))[None])
        relevance[row, window] = out.relevance[0].sigmoid()
    expected = relevance.sum(axis=0) / (relevance > 0).sum(axis=0)
    found = cace.load(tmp_path / "model.pt").localize(path).decision.relevance
    assert found == pytest.approx(expected, abs=5e-4)


def test_a_grid_that_the_model_was_not_trained_on_is_refused(localizer, tmp_path):
    checkpoints.save(
        tmp_path / "other.pt",
        "cace_net",
        localizer,
        ABOUT | {"frames": FRAMES | {"grid": 3}, "grid": [2, 2]},
    )
    with pytest.raises(UserError, match="other.pt: expects a grid of 2×2, its encoder gives 3×3"):
        cace.load(tmp_path / "other.pt")

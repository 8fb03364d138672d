"""Localizing events in videos: windows, seeds, silenced modalities, odd lengths."""

from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch

import cace
from cace.cli import main
from cace.encoders.audio import audio_encoder
from cace.encoders.card import card_of
from cace.encoders.checkpoint import save_encoder
from cace.encoders.visual import visual_encoder
from cace.inference import models
from cace.inference.timeline import Decision, Lane, Timeline, Training
from cace.localizers import load_checkpoint
from cace.localizers.parts import checkpoints
from cace.media.store import as_stored
from cace.media.video import decode_segments
from cace.system.errors import UserError
from tests import fill
from tests.damage import write_damaged
from tests.models import CATEGORIES, FRAMES, write_model
from tests.videos import WRONG_KINDS, sweep, tone, write_video, write_wrong_kind


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "localizer")


def video(path, seconds, fps=10):
    return write_video(path, frames=round(seconds * fps), fps=fps, sound=sweep(seconds))


@torch.inference_mode()
def plain(path, localizer, seconds, silent=()):
    """Windows at 0, 5, 10, ... and one that ends with the video, each on its own; their mean."""
    see, hear = visual_encoder("efficientnet_lite0", "imagenet"), audio_encoder("logmel", "none")
    decoded = decode_segments(path, fps=2, short_side=68, crop=64, damaged=print, remark=print)
    seen, heard = [], []
    for segment in islice(decoded, seconds):
        frames, sound = as_stored(segment.frames, segment.sound, FRAMES["jpeg_quality"])
        seen.append(see(torch.from_numpy(frames)).mean(dim=0).permute(1, 2, 0))
        heard.append(hear(torch.from_numpy(sound)[None])[0])
    visual, audio = torch.stack(seen), torch.stack(heard)
    visual, audio = visual * ("visual" not in silent), audio * ("audio" not in silent)
    found = [[] for _ in range(seconds)]
    for start in sorted({*range(0, max(1, seconds - 9), 5), max(0, seconds - 10)}):
        out = localizer(visual[None, start : start + 10], audio[None, start : start + 10])
        for k, relevance in enumerate(out.relevance[0].sigmoid()):
            category = out.class_logits[0].softmax(dim=-1)
            found[start + k].append((relevance, *category[k if len(category) > 1 else 0]))
    means = torch.stack([torch.tensor(one).mean(dim=0) for one in found])
    return means[:, 0].numpy(), means[:, 1:].numpy()


def assert_same(decision, expected):
    # Apart by what float16 takes away; other seconds differ a hundred times as much.
    assert decision.relevance == pytest.approx(expected[0], abs=5e-4)
    assert decision.category == pytest.approx(expected[1], abs=5e-4)


@pytest.mark.parametrize("seconds", [3, 10, 18])
def test_a_second_is_the_mean_of_the_windows_that_hold_it(model, tmp_path, seconds):
    path = video(tmp_path / "a.mp4", seconds)
    loaded = cace.load(model / "seed-0/best.pt")
    timeline = loaded.localize(path)
    localizer = load_checkpoint(model / "seed-0/best.pt")
    assert_same(timeline.decision, plain(path, localizer, seconds))
    assert_same(timeline.without_sound, plain(path, localizer, seconds, silent=["audio"]))
    assert_same(timeline.without_picture, plain(path, localizer, seconds, silent=["visual"]))
    assert np.ptp(timeline.decision.relevance) > 0.005
    assert timeline.attention.shape == (seconds, 2, 2)
    assert timeline.attention.sum(axis=(1, 2)) == pytest.approx(np.ones(seconds), abs=1e-3)


def test_a_timeline_remarks_on_sound_that_is_lost(model, tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=20, fps=10, sound=tone(2) * [[1], [-1]])
    timeline = cace.load(model / "seed-0/best.pt").localize(path)
    assert any("channels of the sound cancel" in remark for remark in timeline.remarks)


@pytest.mark.slow
def test_forty_damaged_files_are_each_localized_or_refused_with_a_reason(model, tmp_path, capsys):
    names = write_damaged(tmp_path, 40)
    with pytest.raises(SystemExit) as caught:
        main(["localize", str(tmp_path), "--model", str(model / "seed-0/best.pt")])
    said = f"{capsys.readouterr().out}{caught.value}"
    for name in names:
        assert f"{name} (" in said or f"{name}: failed" in said
    assert "of 40 videos failed" in said


def test_a_method_that_decides_each_segment_is_localized_alike(model, tmp_path):
    path = video(tmp_path / "a.mp4", 12)
    timeline = cace.load(model / "avel.pt", encoder=None).localize(path)
    assert_same(timeline.decision, plain(path, load_checkpoint(model / "avel.pt"), 12))
    assert timeline.lanes == {}
    assert np.ptp(timeline.decision.category, axis=0).max() > 1e-3


def test_seeds_are_averaged(model, tmp_path):
    path = video(tmp_path / "a.mp4", 10)
    both = cace.load(model).localize(path)
    each = [cace.load(model / f"seed-{seed}/best.pt").localize(path) for seed in range(2)]
    mean = np.mean([one.decision.relevance for one in each], axis=0)
    assert both.decision.relevance == pytest.approx(mean, abs=1e-6)
    assert "2 localizers" in both.model


@pytest.mark.parametrize(
    ("seconds", "kept", "remark"),
    [
        (12.3, 12.0, "the last 0.3"),
        (12.7, 12.7, "filled up to one second"),
        (3.0, 3.0, "shorter than the 10 s"),
    ],
)
def test_odd_lengths_are_handled_and_reported(model, tmp_path, seconds, kept, remark):
    timeline = cace.load(model).localize(video(tmp_path / "a.mkv", seconds))
    assert timeline.seconds == pytest.approx(kept, abs=0.05)
    assert len(timeline.lanes["gate"].values) == round(kept + 0.3)
    assert any(remark in text for text in timeline.remarks)


def test_an_event_never_ends_after_its_video(model, tmp_path):
    timeline = cace.load(model).localize(video(tmp_path / "a.mkv", 2.7))
    (event,) = timeline._replace(
        decision=Decision(np.ones(3, np.float32), np.eye(3, dtype=np.float32)[[1, 1, 1]])
    ).events()
    assert (event.category, event.start) == ("dog", 0.0)
    assert event.end == pytest.approx(2.7, abs=0.05)


def timeline_of(relevance, category, tmp_path):
    decision = Decision(np.array(relevance, np.float32), np.array(category, np.float32))
    lanes = {"gate": Lane("both happen", np.zeros(len(relevance), np.float32))}
    return Timeline(
        *(tmp_path / "a.mp4", float(len(relevance)), tuple(CATEGORIES), decision, decision),
        *(decision, lanes, None, (0.0, 0.0, 1.0, 1.0), (), "by hand"),
    )


def test_events_are_runs_of_one_category_above_the_threshold(tmp_path):
    bell, dog = [0.8, 0.2, 0.0], [0.3, 0.7, 0.0]
    timeline = timeline_of([0.9, 0.7, 0.6, 0.5, 0.8], [bell, bell, dog, dog, dog], tmp_path)
    assert [event[:3] for event in timeline.events()] == [
        ("bell", 0.0, 2.0),
        ("dog", 2.0, 3.0),  # 0.5 is not above 0.5
        ("dog", 4.0, 5.0),
    ]
    assert timeline.events()[0].confidence == pytest.approx(0.8 * (0.9 + 0.7) / 2)
    # By confidence 0.64, 0.56 and 0.42; shown in the order of time.
    assert [event.start for event in timeline.events(top=2)] == [0.0, 4.0]
    assert [event.start for event in timeline.events(top=1)] == [0.0]
    assert timeline.events(threshold=0.95) == []


def test_an_authors_checkpoint_is_put_behind_vgg19_and_vggish(tmp_path, monkeypatch):
    no_weights = {
        name: {**about, "weights": "none"} for name, about in models.RELEASED_ENCODERS.items()
    }
    monkeypatch.setattr(models, "RELEASED_ENCODERS", no_weights)
    monkeypatch.setattr(models, "RELEASED_FRAMES", {**models.RELEASED_FRAMES, "fps": 1})
    weights = {f"module.{key}": value for key, value in fill.params("Co-Guide").items()}
    torch.save(weights, tmp_path / "authors.pth.tar")
    loaded = cace.load(tmp_path / "authors.pth.tar")
    timeline = loaded.localize(video(tmp_path / "a.mp4", 2))
    assert timeline.categories[0] == "Church bell"
    assert timeline.attention.shape == (2, 7, 7)


def test_an_encoder_of_another_training_is_refused(model, tmp_path):
    other = visual_encoder("efficientnet_lite0", "none")
    card = card_of(other, "efficientnet_lite0", "none")
    save_encoder(tmp_path / "e.pt", other, card, {"epochs": 1})
    with pytest.raises(UserError, match="expected the visual encoder that the localizer was"):
        cace.load(model, encoder=tmp_path / "e.pt")


def test_a_track_that_ends_early_is_reported(model, tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=40, fps=10, sound=tone(1.5))
    remarks = cace.load(model).localize(path).remarks
    assert any(remark.startswith("1.5 s of sound: the rest is treated as") for remark in remarks)


def test_a_feature_that_float16_cannot_hold_names_the_video(model, tmp_path, monkeypatch):
    loaded, loud = cace.load(model), torch.full((1, 128), 1e6)
    monkeypatch.setattr(loaded.encoding.audio_encoder, "forward", lambda some: loud)
    with pytest.raises(UserError, match=r"^\S*/a.mp4: a feature of 1e.06 does not fit"):
        loaded.localize(video(tmp_path / "a.mp4", 2))


def test_a_model_of_nan_is_no_model(model, tmp_path):
    name, localizer, about = checkpoints.read(model / "seed-0/best.pt")
    with torch.no_grad():
        localizer.relevance_head.bias.fill_(torch.nan)
    checkpoints.save(tmp_path / "nan.pt", name, localizer, about)
    with pytest.raises(UserError, match="gives no numbers"):
        cace.load(tmp_path / "nan.pt").localize(video(tmp_path / "a.mp4", 2))


@pytest.mark.parametrize(
    "lacking",
    [
        *("categories", "encoders", "frames", "frames.crop", "frames.precision", "encoders.audio"),
        *("encoders.visual", "encoders.visual.finetuned_epochs", "encoders.audio.weights"),
    ],
)
def test_a_checkpoint_that_contains_too_little_is_refused(model, tmp_path, lacking):
    name, localizer, about = checkpoints.read(model / "seed-0/best.pt")
    *above, last = lacking.split(".")
    place = about
    for key in above:
        place = place[key]
    del place[last]
    checkpoints.save(tmp_path / "a.pt", name, localizer, about)
    with pytest.raises(
        UserError, match=f"expected a checkpoint that names its 3 categories.*got none of.*{last}"
    ):
        cace.load(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("silenced", "remark"),
    [
        ("audio", "the model was trained without sound"),
        ("visual", "the model was trained without p"),
    ],
)
def test_a_model_of_one_modality_reads_only_that_one(model, tmp_path, silenced, remark):
    clip = video(tmp_path / "a.mp4", 4)
    both = cace.load(model / "seed-0/best.pt").localize(clip)
    expected = both.without_sound if silenced == "audio" else both.without_picture
    name, localizer, about = checkpoints.read(model / "seed-0/best.pt")
    # Training without vision computes on a single position.
    grid = {"grid": [1, 1]} if silenced == "visual" else {}
    checkpoints.save(tmp_path / "a.pt", name, localizer, {**about, **grid, "silenced": silenced})
    found = cace.load(tmp_path / "a.pt").localize(clip)
    np.testing.assert_allclose(found.decision.relevance, expected.relevance, atol=1e-6)
    np.testing.assert_allclose(found.decision.category, expected.category, atol=1e-6)
    assert not np.allclose(found.decision.category, both.decision.category, atol=1e-4)
    assert found.attention is None
    assert any(text.startswith(remark) for text in found.remarks)


def test_a_model_of_folded_encoders_folds_them_too(model, tmp_path):
    clip = video(tmp_path / "a.mp4", 2)
    name, localizer, about = checkpoints.read(model / "seed-0/best.pt")
    frames = {**about["frames"], "fold": True}
    checkpoints.save(tmp_path / "a.pt", name, localizer, {**about, "frames": frames})
    plain, folded = (cace.load(path) for path in (model / "seed-0/best.pt", tmp_path / "a.pt"))
    norms = [
        [m for m in one.encoding.visual_encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for one in (plain, folded)
    ]
    assert [len(some) for some in norms] == [49, 0]
    expected, found = (one.localize(clip).decision.relevance for one in (plain, folded))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert plain.identity != folded.identity


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("silenced", (None, "audio")),
        ("source", ("ave", "mini")),
        ("trained_categories", (["bell"], ["dog"])),
        ("supervision", ("full", "weak")),
    ],
)
def test_seeds_of_different_trainings_are_not_averaged(model, tmp_path, key, values):
    for seed, value in enumerate(values):
        name, localizer, about = checkpoints.read(model / f"seed-{seed}/best.pt")
        file = tmp_path / f"seed-{seed}/best.pt"
        checkpoints.save(file, name, localizer, {**about, key: value})
    with pytest.raises(UserError, match=f"its seeds differ in their {key}"):
        cace.load(tmp_path)


def test_seeds_of_different_settings_are_not_averaged(model, tmp_path):
    for seed in range(2):
        name, localizer, about = checkpoints.read(model / f"seed-{seed}/best.pt")
        localizer.settings["beta"] = 0.1 * seed
        checkpoints.save(tmp_path / f"seed-{seed}/best.pt", name, localizer, about)
    with pytest.raises(UserError, match="its seeds differ in their settings"):
        cace.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    WRONG_KINDS.items(),
)
def test_what_is_not_a_video_with_sound_is_refused_with_the_reason(model, tmp_path, name, reason):
    path = write_wrong_kind(tmp_path / name)
    with pytest.raises(UserError, match=reason):
        cace.load(model).localize(path)


def test_a_clip_gets_the_predictions_of_the_pipeline(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    predicted = pd.read_csv("data/predictions/test.csv", dtype={"id": str})
    id_ = predicted["id"][0]
    expected = predicted[predicted["id"] == id_]
    timeline = cace.load().localize(f"data/media/AVE/{id_}.mp4")
    # The pipeline also predicts categories that had no training clip.
    timeline = timeline._replace(training=Training())
    names = [*timeline.categories, "background"]
    assert timeline.decision.relevance == pytest.approx(expected["relevance"].values, abs=1e-3)
    assert [names[label] for label in timeline.labels()] == list(expected["predicted"])

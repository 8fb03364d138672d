"""`cace match`: one's own video, from the command line to the page."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch

from cace import cli
from cace.encoders.visual import visual_encoder
from cace.encoders.weights import fingerprint
from cace.inference import match as inference
from cace.inference.match import Match, load_matcher
from cace.inference.match_page import match_json, match_page
from cace.inference.segments import VideoSegments, encode_segments
from cace.inference.timeline import Training
from cace.matching import checkpoints
from cace.matching.dam import Dam
from cace.matching.distance import Distance
from cace.matching.protocol import Channels
from cace.system.errors import UserError
from tests.models import FRAMES
from tests.videos import sweep, write_video

CHANNELS = Channels(visual=1280, audio=128)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two untrained seeds of each matcher, behind real encoders without fine-tuning."""
    encoders = {
        "visual": {
            "name": "efficientnet_lite0",
            "weights": "imagenet",
            "finetuned_epochs": 0,
            "sha256": fingerprint(visual_encoder("efficientnet_lite0", "imagenet")),
        },
        "audio": {"name": "logmel", "weights": "none"},
    }
    folder = tmp_path_factory.mktemp("cells")
    for name, matcher in (("distance", Distance), ("dam", Dam)):
        for seed in range(2):
            torch.manual_seed(seed)
            about = {"source": "mini", "encoders": encoders, "frames": FRAMES, "seed": seed}
            checkpoints.save(folder / f"{name}/seed-{seed}.pt", name, matcher(CHANNELS), about)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Twelve seconds, in which no two sound alike."""
    path = tmp_path_factory.mktemp("clip") / "my clip.mp4"
    return write_video(path, frames=48, fps=4, sound=sweep(12.0))


@pytest.fixture(scope="module")
def matcher(models):
    return load_matcher(models / "distance")


@pytest.fixture
def match(matcher, monkeypatch, tmp_path):
    """The command with a model that is loaded already, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inference, "load_matcher", lambda *_: matcher)
    return lambda *arguments: cli.main(["match", *map(str, arguments)])


# --- the result


@pytest.mark.parametrize("name", ["distance", "dam"])
@pytest.mark.parametrize("given", ["audio", "visual"])
def test_the_fits_are_those_of_the_matchers_on_the_features_of_the_video(models, clip, name, given):
    """Encoded all at once, and scored by each seed alone."""
    loaded = load_matcher(models / name)
    found = loaded.match(clip, given, 3, 6)
    segments = list(VideoSegments(clip, loaded.frames))
    pairs = encode_segments(segments, loaded.encoding, 90, loaded.device)
    visual = torch.stack([v.float().mean(dim=(0, 1)) for v, _ in pairs])
    audio = torch.stack([a.float() for _, a in pairs])
    asked, searched = (audio, visual) if given == "audio" else (visual, audio)
    seeds = [checkpoints.read(models / name / f"seed-{seed}.pt").matcher for seed in (0, 1)]
    with torch.inference_mode():
        expected = sum(seed.fits(asked[3:6], searched, given) for seed in seeds) / 2
    assert found.fits.shape == (10,)
    np.testing.assert_allclose(found.fits, expected.numpy(), atol=1e-5)


def a_match(fits=(0.5, 0.75, 0.25, 0.75), start=2, end=4, **changes):
    fields = {
        "file": inference.Path("clip.mp4"), "seconds": 5.0, "given": "audio", "start": start,
        "end": end, "fits": np.array(fits, np.float32), "fit_means": "likeness", "remarks": (),
        "model": "a model", "training": Training("folder"), "starts_at": 0.0,
    }  # fmt: skip
    return Match(**{**fields, **changes})


def test_windows_are_ranked_and_equal_ones_are_in_the_order_of_time():
    windows = a_match().windows
    assert [(w.start, w.end) for w in windows] == [(1, 3), (3, 5), (0, 2), (2, 4)]


def test_many_equal_windows_are_in_the_order_of_time():
    fits = np.tile(np.array([0.5, 0.25], np.float32), 100)
    windows = a_match(fits=fits, seconds=201.0).windows
    assert [w.start for w in windows[:100]] == [*range(0, 200, 2)]


def test_the_sentence_names_the_best_window_and_the_place_of_the_same_seconds():
    assert a_match().sentence == (
        "sound 2-4 s: the picture that fits best is 1-3 s; that of the same seconds is number 4 "
        "of 4"
    )
    assert a_match(given="visual", fits=(0, 0, 1, 0)).sentence == (
        "picture 2-4 s: the sound that fits best is 2-4 s; that of the same seconds is number 1 "
        "of 4"
    )


# --- the command


def test_the_command_prints_the_sentence_and_its_limits(match, matcher, clip, capsys):
    match(clip, "--sound", "3-6")
    printed = capsys.readouterr().out
    assert f"  {matcher.match(clip, 'audio', 3, 6).sentence}\n" in printed
    assert "does not say whether any of them belongs to the given one" in printed
    assert "knows drawings only" in printed


def test_with_out_it_writes_a_page_and_json(match, clip, tmp_path, capsys):
    match(clip, "--picture", "0-4", "--out", "found")
    content = json.loads((tmp_path / "found/my clip.match.json").read_text())
    assert content["given"] == {"modality": "picture", "start": 0, "end": 4}
    assert [w["start"] for w in sorted(content["windows"], key=lambda w: w["start"])] == [*range(9)]
    assert (tmp_path / "found/my clip.match.html").exists()
    assert "found/my clip.match.html" in capsys.readouterr().out


def test_existing_files_are_replaced_only_if_asked_for(match, clip, tmp_path):
    (tmp_path / "my clip.match.json").write_text("mine")
    with pytest.raises(SystemExit, match="these files exist already"):
        match(clip, "--sound", "3-6", "--out", ".")
    assert (tmp_path / "my clip.match.json").read_text() == "mine"
    match(clip, "--sound", "3-6", "--out", ".", "--overwrite")
    assert json.loads((tmp_path / "my clip.match.json").read_text())["searched"] == "picture"


@pytest.mark.parametrize("name", ["x" * 246 + ".mp4", "音" * 84 + ".ts"], ids=["x", "音"])
def test_a_name_near_the_limit_is_cut(match, clip, tmp_path, name):
    shutil.copyfile(clip, tmp_path / name)
    match(name, "--sound", "3-6", "--out", "found")
    stems = {path.name.removesuffix(path.suffix) for path in (tmp_path / "found").iterdir()}
    assert len(list((tmp_path / "found").iterdir())) == 2 and len(stems) == 1
    (stem,) = stems
    assert name.startswith(stem.removesuffix(".match"))
    assert 250 <= len(f"{stem}.html".encode()) <= 255


def test_a_folder_in_the_place_of_a_file_is_named_before_any_work(match, clip, tmp_path):
    (tmp_path / "my clip.match.json").mkdir()
    with pytest.raises(SystemExit, match="these files exist already"):
        match(clip, "--sound", "3-6", "--out", ".", "--overwrite")
    assert not (tmp_path / "my clip.match.html").exists()


def test_a_model_whose_path_is_not_utf8_is_named(match, matcher, clip, tmp_path, monkeypatch):
    named = matcher._replace(model=os.fsdecode(b"mod\xe9l: DAM"))
    monkeypatch.setattr(inference, "load_matcher", lambda *_: named)
    match(clip, "--sound", "3-6", "--out", "found")
    content = json.loads((tmp_path / "found/my clip.match.json").read_text())
    assert content["model"] == "mod?l: DAM"


REFUSED = {
    "both": (["--sound", "1-2", "--picture", "1-2"], "not allowed with argument"),
    "neither": ([], "one of the arguments --sound --picture is required"),
    "backwards": (["--sound", "4-2"], "START < END, such as 3-7, got '4-2'"),
    "empty": (["--sound", "2-2"], "START < END, such as 3-7, got '2-2'"),
    "parts": (["--sound", "1.5-3"], "whole seconds, START < END, such as 3-7, got '1.5-3'"),
    "one number": (["--picture", "3"], "START < END, such as 3-7, got '3'"),
    "beyond": (["--sound", "10-13"], "a window within its 12 seconds, .* got 10-13"),
    "all": (["--sound", "0-12"], "as long as the video, so there is nothing to choose from"),
    "embed": (["--sound", "1-2", "--embed"], "--embed needs --out DIR"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_windows_are_refused_in_one_message(match, clip, case, capsys):
    arguments, message = REFUSED[case]
    with pytest.raises(SystemExit) as caught:
        match(clip, *arguments)
    assert re.search(message, f"{caught.value} {capsys.readouterr().err}")


def test_a_video_that_is_not_there_is_refused(match):
    with pytest.raises(SystemExit, match="none.mp4: expected a file, got none"):
        match("none.mp4", "--sound", "1-2")


def test_a_video_that_is_too_large_for_a_page_is_refused(match, tmp_path):
    (tmp_path / "large.mp4").touch()
    os.truncate(tmp_path / "large.mp4", 200_000_001)
    with pytest.raises(SystemExit, match="large.mp4: too large for a page, at most 200 MB"):
        match("large.mp4", "--sound", "1-2", "--out", ".", "--embed")


# --- the model


def test_weights_that_give_no_numbers_are_refused(models, clip, tmp_path):
    found = checkpoints.read(models / "distance/seed-0.pt")
    with torch.no_grad():
        found.matcher.visual[0].weight.fill_(3e38)
    checkpoints.save(tmp_path / "seed-0.pt", "distance", found.matcher, found.about)
    with pytest.raises(UserError, match=r"gives no numbers \(NaN\)"):
        load_matcher(tmp_path).match(clip, "audio", 1, 2)


def test_a_feature_that_float16_cannot_hold_names_the_video(matcher, clip, monkeypatch):
    loud = torch.full((1, 128), 1e6)
    monkeypatch.setattr(matcher.encoding.audio_encoder, "forward", lambda some: loud)
    with pytest.raises(UserError, match=r"^\S*/my clip.mp4: a feature of 1e.06 does not fit"):
        matcher.match(clip, "audio", 1, 2)


def test_a_missing_model_names_what_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"run `dvc repro matching/dvc.yaml`"):
        load_matcher(tmp_path / "distance")
    (tmp_path / "distance").mkdir()
    with pytest.raises(UserError, match=r"expected seed-<n>.pt in it, got none"):
        load_matcher(tmp_path / "distance")


def test_seeds_of_different_matchers_are_refused(models, tmp_path):
    for seed, name in enumerate(("distance", "dam")):
        (tmp_path / f"seed-{seed}.pt").write_bytes((models / name / "seed-0.pt").read_bytes())
    with pytest.raises(UserError, match="its seeds are of different matchers, encoders or frames"):
        load_matcher(tmp_path)


def test_seeds_that_were_trained_on_other_frames_are_refused(models, tmp_path):
    name, matcher, about = checkpoints.read(models / "dam/seed-0.pt")
    for seed, fps in enumerate((2, 4)):
        frames = about["frames"] | {"fps": fps}
        checkpoints.save(tmp_path / f"seed-{seed}.pt", name, matcher, about | {"frames": frames})
    with pytest.raises(UserError, match="its seeds are of different matchers, encoders or frames"):
        load_matcher(tmp_path)


def test_features_of_other_sizes_are_refused(models, tmp_path):
    about = checkpoints.read(models / "dam/seed-0.pt").about
    checkpoints.save(tmp_path / "seed-0.pt", "dam", Dam(Channels(6, 128)), about)
    with pytest.raises(UserError, match=r"features of \(6, 128\) channels, .* give \(1280, 128\)"):
        load_matcher(tmp_path)


def test_a_model_that_names_no_encoders_is_refused(tmp_path):
    checkpoints.save(tmp_path / "seed-0.pt", "dam", Dam(CHANNELS), {})
    with pytest.raises(UserError, match="does not name encoders"):
        load_matcher(tmp_path)


# --- the page and the file


def test_the_page_draws_the_fit_of_every_window():
    (path,) = re.findall(r'<path d="(.*?)">', match_page(a_match()))
    # Heights from the lowest fit (0) to the highest (1): 0.5, 1, 0, 1.
    assert path == "M0 1 V0.5 H1 V0.0 H2 V1.0 H3 V0.0 H4 V1 Z"


def test_the_page_says_what_the_sentence_does():
    page = match_page(a_match())
    assert "best is that of 0:01–0:03" in page
    assert "is number 4 of 4" in page


def test_windows_that_all_fit_alike_can_be_drawn():
    assert "V1.0 H4" in match_page(a_match(fits=(0.5, 0.5, 0.5, 0.5)))


def test_a_name_cannot_add_to_the_page():
    page = match_page(a_match(file=inference.Path("<script>x.mp4")))
    assert "<script>x" not in page


def test_the_same_seconds_are_listed_also_if_they_are_far_from_the_best():
    fits = np.arange(10, 0, -1, dtype=np.float32)
    assert "the same seconds<td>2.0000" in match_page(
        a_match(fits=fits, start=8, end=9, seconds=10.0)
    )


def test_the_json_file_has_all_windows_the_best_first():
    content = json.loads(match_json(a_match()))
    assert content["windows"][0] == content["best"] == {"start": 1, "end": 3, "fit": 0.75}
    assert len(content["windows"]) == 4
    assert content["rank_of_same_seconds"] == 4


def test_a_button_plays_its_window_alone(visit, clip, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(match_page(a_match(file=clip, seconds=12.0), embed=True))
    page = visit(page)
    page.wait_for_function("video.readyState > 1")
    page.locator(".buttons button").nth(1).click()  # the best: seconds 1 to 3
    page.wait_for_function("!video.paused && video.currentTime > 1")
    page.wait_for_function("video.paused && video.currentTime >= 3")
    assert page.evaluate("video.currentTime") < 4


def test_the_page_is_as_wide_as_a_phone(visit, clip, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(match_page(a_match(file=clip, seconds=12.0), embed=True))
    assert visit(page, width=360).evaluate("document.documentElement.scrollWidth") == 360

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cace.data.annotations import Annotations, Row
from cace.encoders.audio import AudioEncoder
from cace.encoders.visual import VisualEncoder, visual_encoder
from cace.finetuning import contrast as finetuning
from cace.finetuning.contrast import clip_pictures, finetune, info_nce, retrieval
from cace.finetuning.layers import train_last
from cace.finetuning.processes import Team
from cace.finetuning.run import clips_only_in
from cace.media.store import ClipStore
from cace.system.errors import UserError


def unit(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=-1)


def test_contrast_of_equal_vectors_is_log_of_the_batch_size():
    same = unit(1, 0).expand(7, 5)
    assert info_nce(same, same, tau=0.07, symmetric=True).item() == pytest.approx(math.log(7))


def test_contrast_vanishes_where_each_finds_its_own():
    eye = torch.eye(5, dtype=torch.float64)
    assert info_nce(eye, eye, tau=0.01, symmetric=False).item() < 1e-40


@given(st.integers(2, 9), st.integers(0, 1000), st.floats(0.05, 2))
@settings(max_examples=25)
def test_contrast_is_equation_9(clips, seed, tau):
    visual, audio = unit(clips, seed), unit(clips, seed + 1)
    expected = 0.0
    for i in range(clips):
        exps = [math.exp(float(visual[i] @ audio[j]) / tau) for j in range(clips)]
        expected -= math.log(exps[i] / sum(exps)) / clips
    assert info_nce(visual, audio, tau, symmetric=False).item() == pytest.approx(expected)


def test_symmetric_contrast_is_the_mean_of_both_directions():
    visual, audio = unit(6, 1), unit(6, 2)
    both = info_nce(visual, audio, 0.1, False) + info_nce(audio, visual, 0.1, False)
    torch.testing.assert_close(info_nce(visual, audio, 0.1, True), both / 2)


def test_recall_counts_those_whose_own_sound_is_near_enough():
    audio = torch.eye(8, dtype=torch.float64)
    visual = audio.clone()
    visual[0] = torch.tensor([1, 2, 0, 0, 0, 0, 0, 0])  # own sound is second
    visual[1] = torch.tensor([3, 1, 3, 3, 3, 3, 3, 0])  # own sound is seventh
    assert retrieval(visual, audio) == (6 / 8, 7 / 8)


def test_recall_does_not_count_ties():
    same = torch.ones(4, 3)
    assert retrieval(same, same) == (0.0, 1.0)


ALONE = Team()


class ColouredClips(ClipStore):
    """A fake of the decoded store: clip k has a colour, and a sound of the same make-up."""

    fps = 2

    def __init__(self, count):
        self.colours = np.random.default_rng(0).dirichlet([0.5] * 3, count)

    def frames(self, id_, which=None):
        colour = (255 * self.colours[int(id_)]).astype(np.uint8)
        return np.broadcast_to(colour, (len(which), 4, 4, 3))

    def sound(self, id_):
        return np.tile(self.colours[int(id_)].astype(np.float32), (10, 1))


def finetune_colours(
    seed=0, learning_rate=3e-2, epochs=30, maps_epochs=0, state=None, team=ALONE, kind=nn.Conv2d
):
    if state is None:
        with TemporaryDirectory() as folder:
            state = Path(folder) / "state.pt"
            return finetune_colours(seed, learning_rate, epochs, maps_epochs, state, kind=kind)
    torch.manual_seed(0)
    encoder = VisualEncoder(kind(3, 6, 1), 6, (0.5,) * 3, (0.5,) * 3)
    curve = finetune(
        encoder,
        AudioEncoder(nn.Identity(), 3),
        ColouredClips(48),
        [str(k) for k in range(32)],
        [str(k) for k in range(32, 48)],
        state=state,
        epochs=epochs,
        maps_epochs=maps_epochs,
        batch_size=16,
        learning_rate=learning_rate,
        maps_learning_rate=3e-2,
        dimensions=4,
        tau=0.02,
        symmetric=True,
        seed=seed,
        device=torch.device("cpu"),
        team=team,
    )
    return curve, encoder


def test_finetuning_finds_the_own_sound_of_unseen_clips():
    curve, _ = finetune_colours()
    assert curve[0].recall_at_5 < 0.6
    assert curve[-1].recall_at_5 > 0.9


class KeepsItsFirstScale(nn.Conv2d):
    """As some networks keep positions."""

    scale = None

    def forward(self, x):
        if self.scale is None:
            self.scale = torch.full((1,), 2.0)
        return super().forward(x) * self.scale


def test_a_network_that_keeps_a_tensor_of_its_first_pass_is_trained():
    curve, encoder = finetune_colours(epochs=1, kind=KeepsItsFirstScale)
    assert len(curve) == 2 and encoder.body.scale is not None


def test_the_parts_in_which_frames_are_encoded_do_not_show(monkeypatch):
    class OwnColours(ColouredClips):
        def frames(self, id_, which=None):
            return np.random.default_rng(int(id_)).integers(256, size=(10, 4, 4, 3), dtype=np.uint8)

    def pictures():
        torch.manual_seed(0)
        encoder = VisualEncoder(nn.Conv2d(3, 6, 3), 6, (0.5,) * 3, (0.5,) * 3).double()
        firsts = np.zeros((3, 10), int)
        found = clip_pictures(encoder, OwnColours(3), list("012"), firsts, torch.device("cpu"))
        found.square().sum().backward()
        return found.detach(), encoder.body.weight.grad

    whole, gradient = pictures()
    monkeypatch.setattr(finetuning, "CPU_PIXELS_AT_ONCE", 7 * 4 * 4)  # of 30 frames
    in_parts, same_gradient = pictures()
    torch.testing.assert_close(in_parts, whole)
    torch.testing.assert_close(same_gradient, gradient)


def test_finetuning_is_the_same_for_the_same_seed():
    (one, encoder), (two, again) = finetune_colours(), finetune_colours()
    assert one == two
    assert torch.equal(encoder.body.weight, again.body.weight)


@pytest.mark.parametrize("killed_in", [1, 3])
def test_a_killed_finetuning_resumes_to_the_same_numbers(tmp_path, monkeypatch, killed_in):
    whole_curve, whole = finetune_colours(epochs=4, maps_epochs=2)
    original, calls = finetuning.progress, []

    def killed(items, what, **options):
        calls.append(what)
        if what == f"finetune: epoch {killed_in}/4":
            raise KeyboardInterrupt
        return original(items, what, **options)

    monkeypatch.setattr(finetuning, "progress", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune_colours(epochs=4, maps_epochs=2, state=tmp_path / "state.pt")
    monkeypatch.setattr(finetuning, "progress", lambda i, w, **o: calls.append(w) or original(i, w))
    calls.clear()
    curve, encoder = finetune_colours(epochs=4, maps_epochs=2, state=tmp_path / "state.pt")
    assert calls[0] == f"finetune: epoch {killed_in}/4"
    assert curve == whole_curve
    assert torch.equal(encoder.body.weight, whole.body.weight)


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_finished_finetuning_is_not_done_again(tmp_path, monkeypatch, epochs):
    state = tmp_path / "state.pt"
    curve, encoder = finetune_colours(epochs=epochs, maps_epochs=2, state=state)
    monkeypatch.setattr(finetuning, "progress", None)
    again, same = finetune_colours(epochs=epochs, maps_epochs=2, state=state)
    assert again == curve
    assert torch.equal(same.body.weight, encoder.body.weight)


def test_no_epochs_pass_the_encoder_through():
    torch.manual_seed(0)
    untouched = nn.Conv2d(3, 6, 1)
    curve, encoder = finetune_colours(epochs=0)
    assert [epoch.epoch for epoch in curve] == [0]
    assert torch.equal(encoder.body.weight, untouched.weight)


def test_the_maps_are_fitted_before_the_encoder_moves():
    (unfitted, _), (fitted, encoder) = (
        finetune_colours(epochs=0, maps_epochs=count) for count in (0, 60)
    )
    assert fitted[0].recall_at_5 > unfitted[0].recall_at_5 + 0.2
    _, untouched = finetune_colours(epochs=0)
    assert torch.equal(encoder.body.weight, untouched.body.weight)


class Usable(ClipStore):
    """A fake of the decoded store, of which clip `bad` could not be decoded."""

    folder = "clips"

    def __init__(self):
        pass

    def usable(self, id_):
        return id_ != "bad"


def test_a_clip_with_rows_in_two_splits_is_used_in_neither():
    rows = [("a", "train"), ("bad", "train"), ("b", "train"), ("b", "val"), ("c", "val")]
    data = Annotations(("Bark",), tuple(Row(id_, 0, 0, 5, split) for id_, split in rows))
    assert clips_only_in("train", Usable(), data) == ["a"]
    assert clips_only_in("val", Usable(), data) == ["c"]
    with pytest.raises(UserError, match="clips: expected usable clips in split test, got none"):
        clips_only_in("test", Usable(), data)


def test_a_stored_clip_that_cannot_be_read_is_named(monkeypatch):
    def damaged(*_):
        raise OSError("Can't read data")

    monkeypatch.setattr(ColouredClips, "folder", "data/clips", raising=False)
    for part in ("sound", "frames"):
        with monkeypatch.context() as patch, pytest.raises(UserError) as caught:
            patch.setattr(ColouredClips, part, damaged)
            finetune_colours()
        assert "clip 0 cannot be read from data/clips: OSError: Can't read" in str(caught.value)


def test_a_contrast_that_is_not_finite_stops_the_run():
    with pytest.raises(UserError, match="finetune: the contrast is nan; lower finetune"):
        finetune_colours(learning_rate=float("inf"))


# --- the last layers alone, and bfloat16


@pytest.mark.parametrize(
    ("name", "layers", "first"),
    [
        ("efficientnet_lite0", 2, "body.blocks.5.0.conv_pw.weight"),
        ("resnet50", 1, "body.7.0.conv1.weight"),  # layer4
        ("vgg19", 3, "body.30.weight"),
        ("timm/test_vit", 1, "body.network.blocks.5.norm1.weight"),
        ("timm/test_convnext", 1, "body.network.stages.3.downsample.0.weight"),
        ("timm/resnet18", 2, "body.network.layer4.0.conv1.weight"),
    ],
)
def test_the_last_layers_alone_are_trained(name, layers, first):
    encoder = visual_encoder(name, "none")
    train_last(encoder, layers)
    names = [name for name, _ in encoder.named_parameters()]
    trained = [name for name, weight in encoder.named_parameters() if weight.requires_grad]
    assert trained == names[names.index(first) :]


def test_more_layers_than_there_are_are_refused():
    with pytest.raises(UserError, match="finetune.layers: expected at most 7, .* or all; got 8"):
        train_last(visual_encoder("efficientnet_lite0", "none"), 8)


def test_weights_before_the_last_layers_stay_as_they_are(tmp_path):
    def tuned(layers, precision="float32"):
        encoder = visual_encoder("timm/test_vit", "none")
        before = {name: weight.clone() for name, weight in encoder.named_parameters()}
        curve = finetune(
            encoder,
            AudioEncoder(nn.Identity(), 3),
            LargeClips(4),
            list("01"),
            list("23"),
            state=tmp_path / f"{layers}-{precision}.pt",
            epochs=1,
            maps_epochs=0,
            batch_size=2,
            learning_rate=1e-3,
            maps_learning_rate=1e-3,
            dimensions=4,
            tau=0.1,
            symmetric=True,
            seed=0,
            layers=layers,
            precision=precision,
            device=torch.device("cpu"),
            team=ALONE,
        )
        same = {name for name, weight in encoder.named_parameters() if weight.equal(before[name])}
        return curve[-1].loss, same

    class_token = "body.network.cls_token"
    loss, same = tuned(1)
    assert class_token in same
    assert "body.network.blocks.4.mlp.fc2.weight" in same
    assert "body.network.blocks.5.mlp.fc2.weight" not in same
    assert class_token not in tuned(None)[1]
    # Rounded to 8 bits, its loss is another, and near.
    rounded, _ = tuned(1, "bfloat16")
    assert rounded != loss
    assert rounded == pytest.approx(loss, abs=0.05)


class LargeClips(ColouredClips):
    def frames(self, id_, which=None):
        return super().frames(id_, which)[:, :1, :1].repeat(32, axis=1).repeat(32, axis=2)

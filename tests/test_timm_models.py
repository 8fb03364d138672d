"""Networks of timm as visual encoders."""

import sys

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision

from cace.encoders import timm_models
from cace.encoders.card import card_of
from cace.encoders.checkpoint import load_encoder, save_encoder
from cace.encoders.visual import visual_encoder
from cace.encoders.weights import fingerprint
from cace.system.errors import UserError


def frames(count=2, size=64, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def test_resnet50_is_torchvisions_with_the_same_weights(tmp_path):
    torch.manual_seed(1)
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "resnet50.pth")
    ours, theirs = (
        visual_encoder(name, str(tmp_path / "resnet50.pth"))
        for name in ("resnet50", "timm/resnet50")
    )
    with torch.inference_mode():
        torch.testing.assert_close(theirs(frames()), ours(frames()), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("test_vit", 16),  # tokens behind a class token
        ("vit_small_patch16_dinov3", 16),  # and behind four registers
        ("test_vit_relpos", 16),  # and behind none
        ("swin_tiny_patch4_window7_224", 32),  # a map whose channels are last
        ("test_convnext", 32),
    ],
)
def test_a_marked_patch_is_at_its_place_in_the_grid(name, stride):
    encoder = visual_encoder(f"timm/{name}", "none")
    side = timm_models.configuration(encoder.body).side
    rows, row, column = side // stride, 1, 3
    pair = torch.full((2, side, side, 3), 128, dtype=torch.uint8)
    pair[1, row * stride : (row + 1) * stride, column * stride : (column + 1) * stride] = 255
    with torch.inference_mode():
        plain, marked = encoder(pair)
    assert plain.shape == (encoder.channels, rows, rows)
    assert (marked - plain).square().sum(dim=0).argmax() == row * rows + column


def test_frames_are_normalised_as_in_the_networks_training():
    clip = visual_encoder("timm/vit_tiny_patch16_224", "none")
    assert clip.mean.flatten().tolist() == clip.std.flatten().tolist() == [0.5] * 3
    resnet = visual_encoder("timm/resnet18", "none")
    torch.testing.assert_close(resnet.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))


def test_random_weights_are_the_same_every_time():
    one, two = (visual_encoder("timm/test_vit", "none") for _ in range(2))
    assert fingerprint(one) == fingerprint(two)


@pytest.fixture
def original():
    """A network with its classifier, as a user has trained it."""
    torch.manual_seed(3)
    return timm.create_model("test_vit", num_classes=7).eval()


@pytest.mark.parametrize("form", ["file", "safetensors", "folder"])
def test_weights_are_read_from_a_file_or_a_folder(form, original, tmp_path):
    path = tmp_path / {"file": "w.pth", "safetensors": "w.safetensors", "folder": "w"}[form]
    if form == "file":
        torch.save({"state_dict": original.state_dict()}, path)
    elif form == "safetensors":
        safetensors.torch.save_file(original.state_dict(), path)
    else:
        timm.models.save_for_hf(original, path)
    encoder = visual_encoder("timm/test_vit", str(path))
    images = (frames(size=160).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.inference_mode():
        tokens = original.forward_features(images)[:, 1:]
        torch.testing.assert_close(encoder(frames(size=160)).flatten(2).mT, tokens)


def test_weights_as_another_library_saved_them_are_converted(tmp_path, capsys):
    torch.manual_seed(2)
    theirs = timm.create_model("test_vit").state_dict()
    as_dinov2 = {**theirs, "mask_token": torch.zeros(1, 64)}  # of its training alone
    torch.save(as_dinov2, tmp_path / "w.pth")
    found = visual_encoder("timm/test_vit", str(tmp_path / "w.pth")).body.network.state_dict()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in found.items())
    assert "w.pth: converted by timm, which renames and resizes" in capsys.readouterr().err


def test_pretrained_weights_come_from_the_hubs_cache_with_their_licence(original, hub_cache):
    network = timm.create_model("test_vit", num_classes=1000)
    hub_cache("timm/test_vit.r160_in1k", {"model.safetensors": network.state_dict()})
    encoder = visual_encoder("timm/test_vit", "pretrained")
    assert torch.equal(encoder.body.network.cls_token, network.cls_token)
    assert card_of(encoder, "timm/test_vit", "pretrained").license == "apache-2.0"
    assert card_of(visual_encoder("timm/test_vit", "none"), "timm/test_vit", "none").license is None


def test_a_finetuned_encoder_keeps_its_licence(tmp_path):
    encoder = visual_encoder("timm/test_vit", "none")
    encoder.license = "mit"
    card = card_of(encoder, "timm/test_vit", "pretrained")
    save_encoder(tmp_path / "e.pt", encoder, card, {"epochs": 0})
    saved = load_encoder(tmp_path / "e.pt", "timm/test_vit")
    assert saved.card == card_of(encoder, "timm/test_vit", "pretrained", 0)
    assert saved.card.license == "mit"


# --- bad input


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_18", "timm has no network 'resnet_18'; the nearest names: timm/resnet18, timm/"),
        ("resnet18.a1_in2k", "no network 'resnet18.a1_in2k'; the nearest names: timm/resnet18.a1"),
        ("qqqqqqqqqqqq", "timm has no network 'qqqqqqqqqqqq'"),
    ],
)
def test_an_unknown_network_is_refused_with_the_nearest_names(name, message):
    with pytest.raises(UserError, match=f"encoders.visual: .*{message}"):
        visual_encoder(f"timm/{name}", "none")


def test_a_network_without_a_map_is_refused():
    encoder = visual_encoder("timm/coat_lite_tiny", "none")
    with pytest.raises(UserError, match="encoders.visual: CoaT of timm gives no map of positions"):
        encoder(frames(size=224))


@pytest.mark.parametrize("other", ["resnet18", "test_vit2"])
def test_weights_of_another_network_are_refused(other, tmp_path):
    torch.save(timm.create_model(other).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"weights .*w.pth: do not fit the network; "):
        visual_encoder("timm/test_vit", str(tmp_path / "w.pth"))


def test_numbers_that_are_too_large_for_float32_are_refused(original, tmp_path):
    large = {key: tensor.double() * 1e300 for key, tensor in original.state_dict().items()}
    torch.save(large, tmp_path / "w.pth")
    with pytest.raises(UserError, match="it gives no numbers: NaN or infinity in .'cls_token'"):
        visual_encoder("timm/test_vit", str(tmp_path / "w.pth"))


def test_a_linked_folder_is_refused_as_dvc_does_not_look_into_it(original, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    torch.save(original.state_dict(), tmp_path / "elsewhere/w.pth")
    (tmp_path / "data/weights").mkdir(parents=True)
    (tmp_path / "data/weights/link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="^data/weights/link: a link to a folder"):
        visual_encoder("timm/test_vit", "data/weights/link/w.pth")


def test_a_damaged_safetensors_file_is_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"no header")
    with pytest.raises(UserError, match=r"weights .*w.safetensors: cannot be read \("):
        visual_encoder("timm/test_vit", str(tmp_path / "w.safetensors"))


def test_without_a_network_the_message_names_the_file_its_address_and_its_place(hub_cache):
    with pytest.raises(UserError) as caught:
        visual_encoder("timm/resnet18", "pretrained")
    for part in (
        "timm/resnet18.a1_in1k: not on this machine",
        "Get model.safetensors or pytorch_model.bin",
        "https://huggingface.co/timm/resnet18.a1_in1k",
        "set encoders.visual_weights: data/weights/resnet18.a1_in1k",
    ):
        assert part in str(caught.value)


def test_a_network_without_pretrained_weights_says_so():
    with pytest.raises(UserError, match="timm has no pretrained weights of test_vit4; set data/"):
        visual_encoder("timm/test_vit4", "pretrained")


def test_a_library_that_does_not_fit_the_others_says_why(monkeypatch, tmp_path):
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(
        UserError, match=r"timm cannot be imported \(operator nms does not exist\);"
    ):
        visual_encoder("timm/resnet18", "none")


def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        UserError, match=r"timm is not installed; run `pip install -e '.\[encoders\]'`"
    ):
        visual_encoder("timm/resnet18", "none")

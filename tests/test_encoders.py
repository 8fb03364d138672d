import hashlib
import math

import numpy as np
import pytest
import torch
import torchvision

from cace.encoders import weights
from cace.encoders.audio import audio_encoder
from cace.encoders.efficientnet_lite import EfficientNetLite0
from cace.encoders.mel import mel_filters
from cace.encoders.vggish import half_band
from cace.encoders.visual import visual_encoder
from cace.encoders.weights import fingerprint
from cace.system import downloads
from cace.system.downloads import RemoteFile
from cace.system.errors import UserError


def frames(count=2, size=64, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "channels"), [("resnet50", 2048), ("vgg19", 512), ("efficientnet_lite0", 1280)]
)
def test_a_map_has_a_position_for_32_pixels(name, channels):
    encoder = visual_encoder(name, "none")
    with torch.inference_mode():
        assert encoder(frames()).shape == (2, channels, 2, 2)
    assert encoder.channels == channels


def test_random_weights_are_the_same_every_time():
    one, two = (visual_encoder("efficientnet_lite0", "none") for _ in range(2))
    assert weights.fingerprint(one) == weights.fingerprint(two)


def test_lite0_has_learned_from_imagenet():
    # Random weights put 0 or 6 nearly everywhere; trained ones are sparse and in between.
    with torch.inference_mode():
        maps = visual_encoder("efficientnet_lite0", "imagenet")(frames(size=112))
    assert 0.05 < (maps > 0).float().mean() < 0.5


def test_weights_of_lite0_may_have_a_classifier(tmp_path):
    encoder = visual_encoder("efficientnet_lite0", "imagenet")
    weights = encoder.body.state_dict() | {"classifier.weight": torch.zeros(1000, 1280)}
    torch.save(weights, tmp_path / "w.pth")
    loaded = visual_encoder("efficientnet_lite0", str(tmp_path / "w.pth"))
    assert fingerprint(loaded) == fingerprint(encoder)


@pytest.mark.parametrize("name", ["resnet50", "vgg19", "efficientnet_lite0"])
def test_weights_with_names_of_another_network_are_refused(name, tmp_path):
    torch.save({"cls_token": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="w.pth: do not fit the network; missing"):
        visual_encoder(name, str(tmp_path / "w.pth"))


def test_lite0_in_bfloat16_has_nearly_the_features_of_float32():
    # Smooth frames, as of a video; with bfloat16 from the first layer on the cosine is 0.998.
    coarse = torch.from_numpy(np.random.default_rng(0).random((10, 3, 7, 7), np.float32)) * 255
    smooth = torch.nn.functional.interpolate(coarse, 112, mode="bicubic").clamp(0, 255)
    images = smooth.permute(0, 2, 3, 1).byte()
    encoder = visual_encoder("efficientnet_lite0", "imagenet")
    with torch.inference_mode():
        expected = encoder(images).flatten()
        with torch.autocast("cpu", torch.bfloat16):
            found = encoder(images).float().flatten()
    assert torch.cosine_similarity(found, expected, dim=0) > 0.999


def test_resnet50_is_torchvisions_up_to_its_last_map(tmp_path):
    torch.manual_seed(1)
    original = torchvision.models.resnet50().eval()
    torch.save(original.state_dict(), tmp_path / "resnet50.pth")
    encoder = visual_encoder("resnet50", str(tmp_path / "resnet50.pth"))
    images = frames()
    mean, std = (torch.tensor(v) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    normal = ((images / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits = original.fc(encoder(images).mean(dim=(2, 3)))
        torch.testing.assert_close(logits, original(normal), rtol=1e-4, atol=1e-5)


def test_logmel_gives_the_level_of_a_tone_in_its_band():
    encoder = audio_encoder("logmel", "none")
    time = torch.arange(32_000) / 32_000
    quiet, loud = (a * torch.sin(2 * torch.pi * 1000 * time) for a in (0.05, 0.5))
    with torch.inference_mode():
        out = encoder(torch.stack([quiet, loud, torch.zeros(32_000)]))
    means, deviations = out[:, :64], out[:, 64:]
    # Ten times the amplitude is 20 dB of power, in units of 5 dB.
    band = means[1].argmax()
    assert (means[1] - means[0])[band].item() == pytest.approx(4, abs=1e-3)
    assert deviations[1, band].item() < 0.4
    torch.testing.assert_close(means[2], torch.full((64,), -8.0))


def test_cnn14_gives_its_embedding_for_each_second(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    encoder = audio_encoder("cnn14", "none")
    with torch.inference_mode():
        out = encoder(torch.randn(2, 32_000, generator=torch.Generator().manual_seed(0)))
    assert out.shape == (2, 2048)
    assert (out >= 0).all()
    # The package's own import would have left a label file in the user's home.
    assert not (tmp_path / "panns_data").exists()


@pytest.fixture(scope="module")
def vggish():
    return audio_encoder("vggish", "none")


def tones(rate, *hertz):
    time = np.arange(rate) / rate
    return sum(0.1 * np.sin(2 * np.pi * f * time + f) for f in hertz)


def log_mel_by_definition(sound):
    """Frames 1 to 95 of VGGish's patch, a number at a time, from sound at 16 kHz."""

    def mel(hertz):
        return 1127 * math.log(1 + hertz / 700)

    edges = np.linspace(mel(125), mel(7500), 66)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    patch = np.zeros((95, 64))
    for t in range(95):
        start = 160 * (t + 1)
        magnitude = np.abs(np.fft.fft(sound[start : start + 400] * window, 512))
        for band, (low, centre, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
            for bin_ in range(257):
                m = mel(bin_ * 16_000 / 512)
                if low < m < high:
                    slope = (
                        (m - low) / (centre - low) if m < centre else (high - m) / (high - centre)
                    )
                    patch[t, band] += slope * magnitude[bin_]
    return np.log(patch + 0.01)


def test_vggish_hears_log_mel_patches_of_16_khz(vggish):
    pitches = (130, 440, 1000, 3333, 6900)
    found = vggish.body.patches(torch.from_numpy(tones(32_000, *pitches)).float()[None])[0]
    assert found.shape == (96, 64)
    # Frame 0 hears the beginning of the second, which resampling rounds off.
    expected = log_mel_by_definition(tones(16_000, *pitches))
    np.testing.assert_allclose(found[1:].numpy(), expected, atol=1e-3)


def test_vggish_ignores_frequencies_above_its_rate(vggish):
    found = vggish.body.patches(torch.from_numpy(tones(32_000, 9000, 12_000)).float()[None])[0]
    assert found[1:95].max() < math.log(0.02)


def test_vggish_gives_its_raw_embedding_for_each_second(vggish):
    sound = torch.randn(2, 32_000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        out = vggish(sound)
    assert out.shape == (2, vggish.channels) == (2, 128)
    assert (out >= 0).all()


def test_vggish_reads_its_maps_with_the_channels_last_as_it_was_trained(vggish):
    sound, read = torch.randn(1, 32_000, generator=torch.Generator().manual_seed(0)), []
    hook = vggish.body.embeddings.register_forward_pre_hook(lambda _, given: read.extend(given))
    with torch.inference_mode():
        vggish(sound)
        maps = vggish.body.features(vggish.body.patches(sound)[:, None])
    hook.remove()
    frame, band, channel = 2, 3, 7  # of 6, 4 and 512
    assert read[0][0, (frame * 4 + band) * 512 + channel] == maps[0, channel, frame, band]


def test_vggish_has_the_layers_of_the_published_weight_file(vggish):
    shapes = {k: tuple(t.shape) for k, t in vggish.body.state_dict().items() if "weight" in k}
    assert shapes == {
        "features.0.weight": (64, 1, 3, 3),
        "features.3.weight": (128, 64, 3, 3),
        "features.6.weight": (256, 128, 3, 3),
        "features.8.weight": (256, 256, 3, 3),
        "features.11.weight": (512, 256, 3, 3),
        "features.13.weight": (512, 512, 3, 3),
        "embeddings.0.weight": (4096, 12_288),
        "embeddings.2.weight": (4096, 4096),
        "embeddings.4.weight": (128, 4096),
    }


def test_missing_weights_name_the_file_its_address_and_its_place(tmp_path, monkeypatch):
    def no_network(*_):
        raise OSError("no network")

    monkeypatch.setenv("CACE_DATA", str(tmp_path))
    monkeypatch.setattr(downloads, "_download", no_network)
    with pytest.raises(UserError) as caught:
        visual_encoder("resnet50", "imagenet")
    for part in ("resnet50-11ad3fa6.pth", "https://download.pytorch.org/", str(tmp_path)):
        assert part in str(caught.value)


def test_a_weight_file_with_another_hash_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CACE_DATA", str(tmp_path))
    (tmp_path / "Cnn14_mAP=0.431.pth").write_bytes(b"another network")
    with pytest.raises(UserError, match="expected sha256 0dc499e4"):
        audio_encoder("cnn14", "audioset")


def test_weights_that_torchvision_has_downloaded_are_used(tmp_path, monkeypatch):
    known = RemoteFile("x.pth", "http://localhost/x.pth", "1 B", hashlib.sha256(b"x").hexdigest())
    monkeypatch.setitem(weights.WEIGHTS, ("resnet50", "imagenet"), known)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/x.pth").write_bytes(b"x")
    assert weights.weights_file("resnet50", "imagenet") == tmp_path / "checkpoints/x.pth"


def test_weights_that_carry_code_are_refused_and_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save({"state_dict": Attack()}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match="contains exec, whose loading would run code"):
        visual_encoder("vgg19", str(tmp_path / "bad.pth"))
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"do not fit the network; missing: .*other shape: \['0.we"):
        visual_encoder("vgg19", str(tmp_path / "other.pth"))


def test_a_checkpoint_with_numpy_numbers_loads(tmp_path):
    torch.save({"model": {"a": torch.ones(2)}, "loss": np.float64(1)}, tmp_path / "old.pth")
    assert weights.read_weights(tmp_path / "old.pth")["a"].sum() == 2


@pytest.mark.parametrize("side", [64, 113])
def test_lite0_is_that_of_a_library(side):
    import timm

    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=0, global_pool="").eval()
    ours = EfficientNetLite0().eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, side, side)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images))


def test_mel_filters_are_those_of_a_library():
    import librosa

    ours = mel_filters(32_000, 1024, 64, 50.0, 14_000.0)
    theirs = librosa.filters.mel(sr=32_000, n_fft=1024, n_mels=64, fmin=50, fmax=14_000)
    assert ours == pytest.approx(theirs, abs=1e-8)


def test_cnn14s_front_end_is_that_with_a_library():
    import librosa

    found = audio_encoder("cnn14", "none").body.cnn14.state_dict()
    filters = librosa.filters.mel(sr=32_000, n_fft=1024, n_mels=64, fmin=50, fmax=14_000)
    assert found["logmel_extractor.melW"].numpy() == pytest.approx(filters.T, abs=1e-8)
    window = librosa.filters.get_window("hann", 1024, fftbins=True)
    # At frequency 0 the transform is the window itself.
    real = found["spectrogram_extractor.stft.conv_real.weight"]
    assert real[0, 0].numpy() == pytest.approx(window, abs=1e-7)


def test_the_half_band_filter_is_that_of_a_library():
    from scipy.signal import firwin

    theirs = firwin(161, 8_000, window=("kaiser", 8.0), fs=32_000)
    assert half_band() == pytest.approx(theirs, abs=1e-15)

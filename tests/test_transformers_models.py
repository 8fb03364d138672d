"""Models of transformers as audio encoders."""

import json
import math
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from cace.encoders.audio import audio_encoder
from cace.encoders.card import card_of
from cace.encoders.transformers_models import per_segment
from cace.encoders.weights import fingerprint
from cace.extraction.encode import round_weights
from cace.system.errors import UserError
from tests.tiny_models import save_audio

KINDS = {"ast": 16, "clap": 64, "wav2vec2": 16}  # with the channels of their features


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A project's folder with one model of each kind below data/weights."""
    top = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        save_audio(top / "data/weights" / kind, kind)
    save_audio(top / "data/weights/second", "ast", max_length=128)  # 1.28 s
    return top


@pytest.fixture
def there(saved, monkeypatch):
    monkeypatch.chdir(saved)
    return saved


def noise(seconds=10):
    return 0.01 * torch.randn(seconds, 32_000, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def clicked(encoder, second, seconds=10):
    """How much each second's feature changes with a click in the middle of one second."""
    sound = noise(seconds)
    click = sound.clone()
    click[second, 16_000:17_600] *= 30
    return (encoder(click) - encoder(sound)).norm(dim=1)


@pytest.mark.parametrize("second", [0, 3, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_a_click_in_one_second_is_heard_in_that_second(there, kind, second):
    encoder = audio_encoder(f"hf/data/weights/{kind}", "pretrained")
    assert encoder.whole_clips
    assert encoder.channels == KINDS[kind]
    assert clicked(encoder, second).argmax() == second


@pytest.mark.parametrize("kind", KINDS)
def test_a_shorter_window_has_a_feature_for_each_of_its_seconds(there, kind):
    change = clicked(audio_encoder(f"hf/data/weights/{kind}", "none"), 2, seconds=4)
    assert len(change) == 4
    assert change.argmax() == 2


def test_an_encoder_that_reads_a_second_gets_each_second_alone(there):
    encoder = audio_encoder("hf/data/weights/second", "pretrained")
    assert not encoder.whole_clips
    change = clicked(encoder, 3)
    assert change[3] > 0
    assert (change[[0, 1, 2, 4, 5, 6, 7, 8, 9]] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_rounded_once_give_the_features_of_those_rounded_each_time(there, kind):
    encoder = audio_encoder(f"hf/data/weights/{kind}", "pretrained")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = encoder(noise())
        round_weights(encoder)
        assert encoder(noise()).equal(expected)
    assert {weight.dtype for weight in encoder.parameters()} == {torch.float32, torch.bfloat16}


def test_the_features_are_those_of_the_library(there):
    folder = there / "data/weights/wav2vec2"
    model = transformers.AutoModel.from_pretrained(folder)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    rate = 16_000
    time = np.arange(10 * rate) / rate
    tone = 0.1 * np.sin(2 * np.pi * 440 * time)
    with torch.inference_mode():
        inputs = extractor(tone, sampling_rate=rate, return_tensors="pt")
        (steps,) = model(**inputs).last_hidden_state
        fine = np.sin(2 * np.pi * 440 * np.arange(320_000) / 32_000) / 10
        sound = torch.from_numpy(fine).float().reshape(10, -1)
        found = audio_encoder("hf/data/weights/wav2vec2", "pretrained")(sound)
    times = np.linspace(4, 5, 10_001)  # 499 steps in ten seconds
    expected = steps[(times * 49.9).astype(int)].mean(dim=0)
    torch.testing.assert_close(found[4], expected, atol=5e-3, rtol=0)


def test_a_second_is_the_mean_over_the_steps_in_it():
    steps = torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    # Of 0.75 s: the first second has 3/4 of step 0 and 1/4 of step 1, and so on.
    assert per_segment(steps, 0.75, 3).flatten().tolist() == [1.25, 3.0, 7.0]
    # Steps that are longer than a second, and sound after the last one.
    assert per_segment(steps[:2], 1.5, 4).flatten().tolist() == [1.0, 1.5, 2.0, 2.0]


def test_random_weights_are_the_same_every_time_and_not_those_of_the_folder(there):
    name = "hf/data/weights/ast"
    one, two = (fingerprint(audio_encoder(name, "none")) for _ in range(2))
    assert one == two != fingerprint(audio_encoder(name, "pretrained"))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("preprocessor_config.json", {"mean": -5.0}),
        ("config.json", {"num_attention_heads": 4}),  # the weights still fit
    ],
)
def test_the_hash_changes_with_the_configuration(there, tmp_path, monkeypatch, file, change):
    before = fingerprint(audio_encoder("hf/data/weights/ast", "pretrained"))
    monkeypatch.chdir(tmp_path)
    save_audio(tmp_path / "data/weights/ast", "ast")
    path = tmp_path / "data/weights/ast" / file
    assert fingerprint(audio_encoder("hf/data/weights/ast", "pretrained")) == before
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert fingerprint(audio_encoder("hf/data/weights/ast", "pretrained")) != before


def test_a_model_of_the_hub_comes_from_its_cache_with_its_licence(there, hub_cache):
    files = {file.name: file.read_bytes() for file in (there / "data/weights/ast").iterdir()}
    readme = b"---\nlicense: bsd-3-clause\n---\n# A model\n"
    hub_cache("someone/ast", files | {"README.md": readme})
    encoder = audio_encoder("hf/someone/ast", "pretrained")
    card = card_of(encoder, "hf/someone/ast", "pretrained")
    assert card.license == "bsd-3-clause"
    assert card.sha256 == fingerprint(audio_encoder("hf/data/weights/ast", "pretrained"))


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        (b"---\nlicense: [mit, apache-2.0]\n---\n", "mit, apache-2.0"),
        (b"---\nlicense: 2020-01-01\n---\n", None),
        (b"---\nlicense: [a\n---\n", None),
        (b"---\n- a\n---\n", None),
        (b"\xff\xfe", None),
    ],
)
def test_a_licence_that_is_no_text_is_not_known(tmp_path, monkeypatch, readme, licence):
    monkeypatch.chdir(tmp_path)
    save_audio(tmp_path / "data/weights/ast", "ast")
    (tmp_path / "data/weights/ast/README.md").write_bytes(readme)
    assert audio_encoder("hf/data/weights/ast", "pretrained").license == licence


# --- bad input


def refused(name, weights="pretrained"):
    with pytest.raises(UserError) as caught:
        audio_encoder(f"hf/{name}", weights)
    return str(caught.value)


def test_without_a_network_the_message_names_the_files_their_address_and_their_place(hub_cache):
    message = refused("MIT/ast-audioset")
    for part in (
        "MIT/ast-audioset: not on this machine, and not downloaded (",
        "Get config.json, preprocessor_config.json and model.safetensors",
        "https://huggingface.co/MIT/ast-audioset",
        "set encoders.audio: hf/data/weights/ast-audioset",
    ):
        assert part in message


def test_a_folder_that_lacks_something_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refused("data/weights/mine")
    assert "hf/data/weights/mine: has no config.json and no preprocessor_config.json" in message


def model_for_text(folder):
    transformers.BertModel(
        transformers.BertConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1)
    ).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text("{}")


def model_with_weights_of_another(folder):
    save_audio(folder, "ast")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"num_hidden_layers": 3}))


def model_with_weights_of_another_size(folder):
    save_audio(folder, "wav2vec2")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"hidden_size": 32}))


def model_without_weights(folder):
    save_audio(folder, "ast")
    (folder / "model.safetensors").unlink()


def model_with_damaged_weights(folder):
    save_audio(folder, "ast")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])


class Code:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of a file ran')",)


def model_with_code_in_its_weights(folder):
    model_without_weights(folder)
    torch.save({"a": Code()}, folder / "pytorch_model.bin")


def model_with_code(folder):
    model_for_text(folder)
    auto = {"AutoConfig": "c.C", "AutoFeatureExtractor": "c.F"}
    code = json.dumps({"auto_map": auto, "model_type": "own", "feature_extractor_type": "F"})
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_text(code)


def model_with_weights_that_are_no_numbers(folder):
    save_audio(folder, "ast")
    file = folder / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    nothing = {name: tensor * math.nan for name, tensor in weights.items()}
    safetensors.torch.save_file(nothing, file, {"format": "pt"})


def model_with_an_unknown_extractor(folder):
    """The library answers with the names of all extractors that it knows."""
    save_audio(folder, "ast")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings["feature_extractor_type"] = "Unknown"
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (model_for_text, "not an audio encoder that transformers can load"),
        (model_with_weights_of_another, "its weights do not fit the network; missing: .'layers.2"),
        (
            model_with_weights_of_another_size,
            "its weights do not fit the network; of another shape",
        ),
        (model_without_weights, "has no model.safetensors; put there what `save_pretrained`"),
        (model_with_damaged_weights, "its weights are damaged .*; get them again"),
        (
            model_with_code_in_its_weights,
            "its weights are damaged, or contain code, which is not run",
        ),
        (model_with_code, "not an audio encoder that transformers can load .*contains custom code"),
        (
            model_with_an_unknown_extractor,
            r"not an audio .*\(Unrecognized feature extractor .*\.\.\.\); get its files again, or",
        ),
        (model_with_weights_that_are_no_numbers, "its features are not numbers; get its weights"),
    ],
)
def test_another_model_is_refused_in_one_message(make, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "data/weights/mine")
    with pytest.raises(UserError, match=f"encoders.audio: hf/data/weights/mine: {message}") as told:
        audio_encoder("hf/data/weights/mine", "pretrained")
    assert "\n" not in str(told.value) and len(str(told.value)) < 500


def test_a_linked_folder_is_refused_as_dvc_does_not_look_into_it(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/weights").mkdir(parents=True)
    (tmp_path / "data/weights/link").symlink_to(saved / "data/weights/ast")
    with pytest.raises(UserError, match="^data/weights/link: a link to a folder, into which DVC"):
        audio_encoder("hf/data/weights/link", "pretrained")


def test_a_library_that_is_not_installed_is_named_with_its_extra(there, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = refused("data/weights/ast")
    assert "hf/data/weights/ast: needs transformers, which is not installed" in message
    assert "`pip install -e '.[encoders]'`" in message

"""The file of the fine-tuned visual encoder."""

import pytest
import torch

from cace.encoders.card import EncoderCard, card_of
from cace.encoders.checkpoint import load_encoder, save_encoder, save_no_encoder
from cace.encoders.visual import visual_encoder
from cace.system.errors import UserError

NAME = "efficientnet_lite0"


@pytest.fixture(scope="module")
def encoder():
    """One that differs from the encoder with this name and these weights."""
    network = visual_encoder(NAME, "none")
    with torch.no_grad():
        next(network.parameters()).add_(1)
    return network


def save(path, network, epochs=2):
    save_encoder(path, network, EncoderCard(NAME, "imagenet", "before"), {"epochs": epochs})
    return path


def test_an_encoder_comes_back_with_its_card(encoder, tmp_path):
    saved = load_encoder(save(tmp_path / "e.pt", encoder), NAME)
    assert saved.card == card_of(encoder, NAME, "imagenet", 2)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(saved.network.state_dict()[name], tensor)
    assert not saved.network.training


def test_the_bytes_do_not_depend_on_the_files_name(encoder, tmp_path):
    one, two = (save(tmp_path / name, encoder) for name in ("one.pt", "two.pt"))
    assert one.read_bytes() == two.read_bytes()


def test_a_file_of_an_earlier_version_is_read(encoder, tmp_path):
    content = {
        "name": NAME,
        "weights": "imagenet",
        "pretrained_sha256": "before",
        "finetune": {"epochs": 5, "tau": 0.07},
        "state_dict": encoder.state_dict(),
    }
    torch.save(content, tmp_path / "e.pt")
    assert load_encoder(tmp_path / "e.pt", NAME).card == card_of(encoder, NAME, "imagenet", 5)


def test_a_missing_file_names_the_stage_that_writes_it(tmp_path):
    with pytest.raises(UserError, match=r"e.pt: not there; run `dvc repro finetune`"):
        load_encoder(tmp_path / "e.pt", NAME)


@pytest.mark.parametrize("content", [b"<html>", None])
def test_another_file_is_refused(tmp_path, content):
    if content is None:
        torch.save({"name": NAME}, tmp_path / "e.pt")
    else:
        (tmp_path / "e.pt").write_bytes(content)
    with pytest.raises(UserError, match="e.pt: (not a PyTorch file|expected a visual encoder)"):
        load_encoder(tmp_path / "e.pt", NAME)


def test_an_encoder_of_another_name_is_refused(encoder, tmp_path):
    path = save(tmp_path / "e.pt", encoder)
    with pytest.raises(UserError, match=f"expected vgg19, got {NAME}; run `dvc repro finetune`"):
        load_encoder(path, "vgg19")
    with pytest.raises(UserError, match=f"expected vgg19, which the localizer needs, got {NAME}"):
        load_encoder(path, "vgg19", needed_by="the localizer")


def test_a_source_without_an_encoder_leaves_none(tmp_path):
    save_no_encoder(tmp_path / "e.pt")
    with pytest.raises(UserError, match="expected vgg19, got none"):
        load_encoder(tmp_path / "e.pt", "vgg19")

"""A trained model as one file: `cace export`, and its use where nothing else is."""

import json
import os
import shutil
import zipfile

import numpy as np
import pytest
import torch

import cace
from cace import cli
from cace.encoders.card import card_of
from cace.encoders.checkpoint import save_encoder
from cace.encoders.visual import visual_encoder
from cace.inference.export import export
from cace.system.errors import UserError
from tests import fill
from tests.models import write_model
from tests.videos import tone, write_video

AUDIO = {"name": "logmel", "weights": "none"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Three seconds."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_video(path, frames=30, fps=10, sound=tone(3.0))


@pytest.fixture
def fine_tuned(tmp_path):
    """A model in data/models whose visual encoder has weights that nobody else has."""
    models = tmp_path / "data/models"
    network = visual_encoder("efficientnet_lite0", "imagenet")
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1.001)
    card = card_of(network, "efficientnet_lite0", "imagenet", finetuned_epochs=2)
    save_encoder(models / "visual_encoder.pt", network, card, {"epochs": 2})
    encoders = {"visual": card.as_json(), "audio": AUDIO}
    return write_model(models / "localizer", source="folder", encoders=encoders)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The file of a model with public encoders, and its folder."""
    folder = write_model(tmp_path_factory.mktemp("small"))
    export(folder, folder / "small.cace")
    return folder / "small.cace"


def description(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("model.json"))


def test_one_file_in_an_empty_folder_gives_the_answer_of_the_project_bit_for_bit(
    fine_tuned, clip, tmp_path, monkeypatch
):
    loaded = cace.load(fine_tuned)
    expected, identity = loaded.localize(clip), loaded.identity
    export(fine_tuned, tmp_path / "empty/a.cace")
    shutil.rmtree(tmp_path / "data")
    monkeypatch.chdir(tmp_path / "empty")
    model = cace.load("a.cace")
    found = model.localize(clip)
    for name in ("decision", "without_sound", "without_picture"):
        for ours, theirs in zip(getattr(found, name), getattr(expected, name), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(found.attention, expected.attention)
    assert found.categories == expected.categories and found.training == expected.training
    assert model.identity == identity  # so an interrupted run continues with it


def test_commands_write_and_use_it(fine_tuned, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.main(["export", "a.cace", "--model", str(fine_tuned), "--licence", "CC BY 4.0"])
    assert "a.cace: 2 localizers (CACE-Net), " in capsys.readouterr().out
    cli.main(["localize", str(clip), "--model", "a.cace"])
    assert "a.cace: 2 localizers (CACE-Net) on efficientnet_lite0" in capsys.readouterr().out
    assert description("a.cace")["licences"]["model"] == "CC BY 4.0"


def test_only_encoders_that_are_not_public_are_in_it(fine_tuned, small, tmp_path):
    export(fine_tuned, tmp_path / "a.cace")
    assert description(tmp_path / "a.cace")["contains"] == ["visual_encoder.pt"]
    assert description(small)["contains"] == []
    difference = (tmp_path / "a.cace").stat().st_size - small.stat().st_size
    parameters = sum(p.numel() for p in visual_encoder("efficientnet_lite0", "none").parameters())
    assert difference == pytest.approx(4 * parameters, rel=0.05)  # bytes of float32


def test_random_weights_travel_with_it(tmp_path):
    network = visual_encoder("efficientnet_lite0", "none")
    card = card_of(network, "efficientnet_lite0", "none", finetuned_epochs=0)
    folder = write_model(tmp_path, encoders={"visual": card.as_json(), "audio": AUDIO})
    export(folder, tmp_path / "a.cace")
    assert description(tmp_path / "a.cace")["contains"] == ["visual_encoder.pt"]
    assert cace.load(tmp_path / "a.cace").identity == cace.load(folder).identity


def test_it_tells_where_the_model_comes_from(fine_tuned, tmp_path):
    export(fine_tuned, tmp_path / "a.cace")
    told = description(tmp_path / "a.cace")
    assert told["encoders"]["visual"]["finetuned_epochs"] == 2
    assert told["categories"] == ["bell", "dog", "horn"] and told["source"] == "folder"
    assert told["frames"]["crop"] == 64
    assert len(told["localizers"]) == 2
    assert told["licences"]["efficientnet_lite0, imagenet"].startswith("Apache-2.0")
    assert told["licences"]["training clips"].startswith("not known")


def test_seeds_are_averaged_in_their_order(tmp_path):
    write_model(tmp_path)
    (tmp_path / "seed-1").rename(tmp_path / "seed-10")  # sorted before seed-2
    (tmp_path / "seed-0").rename(tmp_path / "seed-2")
    export(tmp_path, tmp_path / "a.cace")
    assert cace.load(tmp_path / "a.cace").identity == cace.load(tmp_path).identity


def test_the_same_model_gives_the_same_bytes(small, tmp_path):
    export(small.parent, tmp_path / "again.cace")
    assert (tmp_path / "again.cace").read_bytes() == small.read_bytes()


def test_an_existing_file_is_replaced_only_if_asked(small, tmp_path):
    (tmp_path / "a.cace").write_bytes(small.read_bytes() + b"more")
    command = ["export", str(tmp_path / "a.cace"), "--model", str(small.parent)]
    with pytest.raises(SystemExit, match="a.cace: exists already; choose another name"):
        cli.main(command)
    assert (tmp_path / "a.cace").read_bytes().endswith(b"more")
    cli.main([*command, "--overwrite"])
    assert (tmp_path / "a.cace").read_bytes() == small.read_bytes()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_an_incomplete_file_is_told_from_other_files(small, tmp_path, share):
    data = small.read_bytes()
    (tmp_path / "a.cace").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match="a.cace: a damaged or incomplete model .*; get it again"):
        cace.load(tmp_path / "a.cace")


def test_a_changed_byte_is_noticed_or_changes_nothing(small, tmp_path):
    expected = cace.load(small).identity
    rng = np.random.default_rng(0)
    noticed = 0
    for _ in range(40):
        damaged = bytearray(small.read_bytes())
        damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        (tmp_path / "a.cace").write_bytes(damaged)
        try:
            assert cace.load(tmp_path / "a.cace").identity == expected
        except UserError as error:
            noticed += 1
            assert "a.cace" in str(error) and "get it again" in str(error)
    assert noticed > 30


def rewritten(small, path, compression=zipfile.ZIP_STORED, without=(), **changes):
    """A copy of the file; changes: of its description."""
    with zipfile.ZipFile(small) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "model.json":
                content = json.dumps({**json.loads(content), **changes}).encode()
            if name not in without:
                new.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "cace-model-9"}, "expected a model in the format cace-model-1, got 'cace-mo"),
        ({"compression": zipfile.ZIP_DEFLATED}, "damaged .*an entry is compressed"),
        ({"without": ["localizer-0.pt"]}, "expected localizer-0.pt in this model, got none"),
        ({"without": ["localizer-1.pt"]}, "expected localizer-1.pt in this model, got none"),
        ({"contains": ["visual_encoder.pt"]}, "expected visual_encoder.pt in this model, got none"),
        ({"localizers": 3}, "damaged"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_reason(small, tmp_path, change, message):
    path = rewritten(small, tmp_path / "a.cace", **change)
    with pytest.raises(UserError, match=f"a.cace: .*{message}"):
        cace.load(path)


def test_a_file_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("letter.txt", "dear")
    (tmp_path / "a.txt").write_text("dear")
    for name in ("a.zip", "a.txt"):
        with pytest.raises(UserError, match=f"{name}: not a PyTorch file, or a damaged one"):
            cace.load(tmp_path / name)


def test_weights_of_another_encoder_are_refused(fine_tuned, tmp_path):
    export(fine_tuned, tmp_path / "a.cace")
    other = tmp_path / "other.pt"
    torch.save(dict(visual_encoder("efficientnet_lite0", "none").state_dict()), other)
    path = rewritten(tmp_path / "a.cace", tmp_path / "b.cace", without=["visual_encoder.pt"])
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(other, "visual_encoder.pt")
    with pytest.raises(UserError, match="b.cace: expected the visual encoder that the localizer"):
        cace.load(path)


def test_a_second_encoder_is_refused(small):
    with pytest.raises(UserError, match="contains the encoder that it needs; name no other one"):
        cace.load(small, encoder="visual_encoder.pt")


def test_a_model_without_its_encoder_says_what_it_needs(fine_tuned, small, tmp_path):
    (tmp_path / "data/models/visual_encoder.pt").unlink()
    with pytest.raises(UserError, match="visual_encoder.pt: not there, and .*localizer needs the"):
        export(fine_tuned, tmp_path / "a.cace")
    with pytest.raises(UserError, match="small.cace: expected the visual_encoder.pt of a training"):
        cace.load(fine_tuned, encoder=small)


def test_files_that_are_one_file_already_are_not_exported(small, tmp_path):
    with pytest.raises(UserError, match="one file already; copy it"):
        export(small, tmp_path / "a.cace")


@pytest.mark.parametrize("method", ["Co-Guide", "cmran"])
def test_an_authors_checkpoint_is_shared_as_it_is(tmp_path, method):
    torch.save({f"module.{k}": v for k, v in fill.params(method).items()}, tmp_path / "a.tar")
    with pytest.raises(UserError, match="expected a model that `dvc repro train` wrote; share a"):
        export(tmp_path / "a.tar", tmp_path / "a.cace")


@pytest.mark.parametrize("name", ["best.pt", "params.yaml"])
def test_files_of_other_kinds_are_never_overwritten(tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(SystemExit, match=f"{name}: not a file of `cace export`; choose another"):
        cli.main(["export", str(tmp_path / name), "--model", str(tmp_path), "--overwrite"])
    assert (tmp_path / name).read_bytes() == b"mine"


@pytest.mark.parametrize(
    "command", [["evaluate", "--checkpoint"], ["match", "a.mp4", "--sound", "1-2", "--model"]]
)
def test_where_a_checkpoint_is_expected_it_is_named_as_what_it_is(small, command):
    with pytest.raises(SystemExit, match="small.cace: expected a checkpoint, got a file of `cace"):
        cli.main([*command, str(small)])


def test_terms_that_are_not_utf8_are_written(small, tmp_path):
    licence = os.fsdecode(b"caf\xe9 BY")
    cli.main(
        ["export", str(tmp_path / "a.cace"), "--model", str(small.parent), "--licence", licence]
    )
    assert description(tmp_path / "a.cace")["licences"]["model"] == "caf? BY"


def test_a_checkpoint_of_a_matcher_is_named_as_what_it_is(tmp_path):
    torch.save({"format": "cace-matcher-1"}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"expected a localizer \(.*\), got 'cace-matcher-1'; name"):
        cace.load(tmp_path / "a.pt")

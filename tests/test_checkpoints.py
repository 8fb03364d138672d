import numpy as np
import pytest
import torch

from cace.localizers import load_checkpoint
from cace.localizers.cace_net import CaceNet
from cace.localizers.parts import checkpoints
from cace.localizers.parts.protocol import Sizes
from cace.system.errors import UserError
from tests import fill


def localizer(**settings):
    torch.manual_seed(0)
    return CaceNet(Sizes(6, 8, 3, 4), width=32, **settings).eval()


def inputs():
    return torch.rand(2, 10, 2, 2, 6), torch.rand(2, 10, 8)


def test_a_localizer_comes_back_with_its_settings(tmp_path):
    original = localizer(guidance="visual", psi=0.7, gamma=0.2)
    original.start_epoch(1.0)
    checkpoints.save(tmp_path / "a.pt", "cace_net", original, {"categories": ["a", "b", "c"]})
    name, loaded, about = checkpoints.read(tmp_path / "a.pt")
    assert (name, about) == ("cace_net", {"categories": ["a", "b", "c"]})
    assert (loaded.sizes, loaded.settings) == (original.sizes, original.settings)
    assert loaded.contrast_on
    batch = inputs()
    assert torch.equal(loaded(*batch).relevance, original(*batch).relevance)
    assert not loaded.training


def test_the_bytes_do_not_depend_on_the_files_name(tmp_path):
    for name in ("a.pt", "bb.pt"):
        checkpoints.save(tmp_path / name, "cace_net", localizer(), {})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "bb.pt").read_bytes()


def test_a_checkpoint_that_carries_code_is_refused_and_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save({"weights": Attack()}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="contains exec, whose loading would run code; "):
        load_checkpoint(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(tmp_path, share):
    checkpoints.save(tmp_path / "a.pt", "cace_net", localizer(), {})
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="a.pt: not a PyTorch file, or a damaged one"):
        load_checkpoint(tmp_path / "a.pt")


def test_a_changed_byte_is_noticed_or_changes_nothing(tmp_path):
    checkpoints.save(tmp_path / "a.pt", "cace_net", localizer(), {})
    content = bytearray((tmp_path / "a.pt").read_bytes())
    expected = load_checkpoint(tmp_path / "a.pt").state_dict()
    noticed = 0
    for place in np.random.default_rng(0).integers(len(content), size=30):
        content[place] ^= 255
        (tmp_path / "b.pt").write_bytes(content)
        content[place] ^= 255
        try:
            found = load_checkpoint(tmp_path / "b.pt").state_dict()
        except UserError:
            noticed += 1
        else:
            assert all(found[name].equal(weight) for name, weight in expected.items())
    assert noticed > 20  # the others are between the tensors


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(
        UserError, match=r"expected the key .*, got keys such as \['conv1.weight'\]"
    ):
        load_checkpoint(tmp_path / "a.pt")


def test_a_missing_weight_is_named(tmp_path):
    checkpoints.save(tmp_path / "a.pt", "cace_net", localizer(), {})
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    del content["weights"]["class_head.bias"]
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"missing: \['class_head.bias'\]"):
        load_checkpoint(tmp_path / "a.pt")


def authors_file(tmp_path, guide, **changes):
    """A file as the authors' code saves it."""
    state = {f"module.{key}": value for key, value in fill.params(guide).items()}
    torch.save(state | changes, tmp_path / "authors.pth.tar")
    return tmp_path / "authors.pth.tar"


@pytest.mark.parametrize(
    ("guide", "tensors", "guidance"),
    [
        ("Co-Guide", 242, "both"),
        ("Audio-Guide", 242, "audio"),
        ("Visual-Guide", 234, "visual"),
        ("None", 190, "none"),
    ],
)
def test_a_checkpoint_of_the_authors_gives_their_outputs(tmp_path, guide, tensors, guidance):
    path = authors_file(tmp_path, guide)
    assert len(torch.load(path)) == tensors
    loaded = load_checkpoint(path, guidance=guidance)
    assert loaded.contrast_on and not loaded.training
    with torch.inference_mode():
        found = loaded(*fill.inputs()).relevance
    assert found.dtype == torch.float64
    golden = np.load(fill.DATA / "golden.npz")[f"{guide}/switch1/is_event_scores"]
    torch.testing.assert_close(found, torch.from_numpy(golden)[..., 0].T, rtol=0, atol=1e-10)


def test_settings_of_a_checkpoint_of_the_authors_can_be_given(tmp_path):
    loaded = load_checkpoint(authors_file(tmp_path, "Co-Guide"), beta=0.1, psi=0.2, bece_lambda=0.5)
    guidance = loaded.network.guidance
    assert (guidance.guide_visual.beta, guidance.guide_audio.psi) == (0.1, 0.2)
    assert loaded.bece_lambda == 0.5


def test_a_strange_key_in_a_checkpoint_of_the_authors_is_named(tmp_path):
    path = authors_file(tmp_path, "Co-Guide", **{"module.extra.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"unknown: \['extra.weight'\]"):
        load_checkpoint(path)


def test_a_checkpoint_of_the_authors_of_another_guidance_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"CACE-Net .*missing: \['network.guidance.guide_audio"):
        load_checkpoint(authors_file(tmp_path, "Visual-Guide"))


@pytest.mark.parametrize("damage", ["settings", "about", "weights", "setting", "key"])
def test_a_checkpoint_with_a_piece_missing_is_refused(tmp_path, damage):
    checkpoints.save(tmp_path / "a.pt", "cace_net", localizer(), {})
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    if damage == "setting":
        content["settings"]["zzz"] = 1
    elif damage == "weights":
        content["weights"] = {}
    elif damage == "key":
        content = {1: 2}
    else:
        del content[damage]
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(
        UserError,
        match=r"a\.pt: (a damaged checkpoint|CACE-Net has no setting zzz|expected tensors by name"
        r"|not a checkpoint of CACE-Net .*missing)",
    ):
        load_checkpoint(tmp_path / "a.pt")


def first_format(localizer):
    """A checkpoint as it was written before there were several methods."""
    settings = {key: localizer.settings[key] for key in ("guidance", "beta", "psi", "alpha")}
    settings |= {"gamma": 0.3, "bece": True, "bece_lambda": 0.6, "bece_noise": 0.1}
    sizes = {"visual_channels": 6, "audio_channels": 8, "categories": 3, "bece_heads": "event"}
    weights = {
        key.removeprefix("network."): value
        for key, value in localizer.state_dict().items()
        if key != "contrast_on"
    }
    return {
        "format": "cace-localizer-1",
        "settings": {**sizes, **settings},
        "about": {"grid": [2, 2]},
        "contrast_on": True,
        "weights": weights,
    }


def test_a_file_of_the_first_format_still_loads(tmp_path):
    original = CaceNet(Sizes(6, 8, 3, 4), guidance="audio").eval()
    original.start_epoch(1.0)
    torch.save(first_format(original), tmp_path / "a.pt")
    name, loaded, _ = checkpoints.read(tmp_path / "a.pt")
    batch = inputs()
    assert (name, loaded.sizes) == ("cace_net", original.sizes)
    assert torch.equal(loaded(*batch).relevance, original(*batch).relevance)


def test_a_checkpoint_of_another_method_is_refused_by_name(tmp_path):
    checkpoints.save(tmp_path / "a.pt", "cace_net", localizer(), {})
    with pytest.raises(UserError, match="expected a checkpoint of avel, got one of cace_net"):
        load_checkpoint(tmp_path / "a.pt", localizer="avel")


def test_an_unknown_method_or_setting_is_refused_with_what_there_is(tmp_path):
    file = authors_file(tmp_path, "None")
    with pytest.raises(UserError, match="expected a localizer of cace_net, cmbs, .*, got 'yolo'"):
        load_checkpoint(file, localizer="yolo")
    with pytest.raises(
        UserError, match="CACE-Net has no setting lambda; expected some of guidance, beta"
    ):
        load_checkpoint(file, localizer="cace_net", **{"lambda": 0.6})


@pytest.mark.parametrize("name", ["cmbs", "avel"])
def test_checkpoints_of_other_authors_load(tmp_path, name):
    shapes = fill.state_dict_shapes(name)
    weights = {f"module.{key}": fill.fill_param(key, shape) for key, shape in shapes.items()}
    torch.save(weights, tmp_path / "authors.pth.tar")
    loaded = load_checkpoint(tmp_path / "authors.pth.tar", localizer=name)
    assert loaded.sizes == (512, 128, 28, 49)
    assert loaded.background == 28 and not loaded.training
    assert next(loaded.parameters()).dtype == torch.float64


def test_a_pickled_module_is_refused_and_not_run(tmp_path):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "AV_att.pt")
    with pytest.raises(
        UserError, match="contains torch.nn.modules.linear.Linear, whose loading would"
    ):
        load_checkpoint(tmp_path / "AV_att.pt", localizer="avel")


def test_another_methods_authors_checkpoint_is_answered_with_the_option_that_names_it(tmp_path):
    torch.save(fill.params("cmran"), tmp_path / "a.tar")
    with pytest.raises(
        UserError, match=r"if its authors are those of another method, name it \(--l"
    ):
        checkpoints.read(tmp_path / "a.tar")

import numpy as np
import pytest
import torch

from cace.localizers import checkpoints
from cace.localizers.cace_net import Localizer
from cace.system.errors import UserError
from tests import fill


def localizer(**settings):
    torch.manual_seed(0)
    return Localizer(6, 8, 3, **settings).eval()


def inputs():
    return torch.rand(2, 10, 2, 2, 6), torch.rand(2, 10, 8)


def test_a_localizer_comes_back_with_its_settings(tmp_path):
    original = localizer(guidance="visual", psi=0.7, gamma=0.2)
    original.contrast_on = True
    checkpoints.save(tmp_path / "a.pt", original, {"categories": ["a", "b", "c"]})
    loaded, about = checkpoints.read(tmp_path / "a.pt")
    assert (loaded.settings, about) == (original.settings, {"categories": ["a", "b", "c"]})
    batch = inputs()
    assert torch.equal(loaded(*batch).relevance, original(*batch).relevance)
    assert not loaded.training


def test_the_bytes_do_not_depend_on_the_files_name(tmp_path):
    for name in ("a.pt", "bb.pt"):
        checkpoints.save(tmp_path / name, localizer(), {})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "bb.pt").read_bytes()


def test_a_checkpoint_that_carries_code_is_refused_and_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save({"weights": Attack()}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="expected a checkpoint of plain tensors"):
        checkpoints.load(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_a_truncated_checkpoint_is_refused(tmp_path):
    checkpoints.save(tmp_path / "a.pt", localizer(), {})
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="a.pt: expected a checkpoint of plain tensors, undamaged"):
        checkpoints.load(tmp_path / "a.pt")


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"got keys such as \['conv1.weight'\]"):
        checkpoints.load(tmp_path / "a.pt")


def test_a_missing_weight_is_named(tmp_path):
    checkpoints.save(tmp_path / "a.pt", localizer(), {})
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    del content["weights"]["class_head.bias"]
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"missing: \['class_head.bias'\]"):
        checkpoints.load(tmp_path / "a.pt")


def published(tmp_path, guide, **changes):
    """A file as the published code saves it."""
    state = {f"module.{key}": value for key, value in fill.params(guide).items()}
    torch.save(state | changes, tmp_path / "published.pth.tar")
    return tmp_path / "published.pth.tar"


@pytest.mark.parametrize(
    ("guide", "tensors", "guidance"),
    [
        ("Co-Guide", 242, "both"),
        ("Audio-Guide", 242, "audio"),
        ("Visual-Guide", 234, "visual"),
        ("None", 190, "none"),
    ],
)
def test_a_published_checkpoint_gives_the_published_outputs(tmp_path, guide, tensors, guidance):
    path = published(tmp_path, guide)
    assert len(torch.load(path)) == tensors
    loaded = checkpoints.load(path, guidance=guidance)
    assert loaded.contrast_on and not loaded.training
    with torch.inference_mode():
        found = loaded(*fill.inputs()).relevance
    assert found.dtype == torch.float64
    golden = np.load(fill.DATA / "golden.npz")[f"{guide}/switch1/is_event_scores"]
    torch.testing.assert_close(found, torch.from_numpy(golden)[..., 0].T, rtol=0, atol=1e-10)


def test_settings_of_a_published_checkpoint_can_be_given(tmp_path):
    loaded = checkpoints.load(published(tmp_path, "Co-Guide"), beta=0.1, psi=0.2, bece_lambda=0.5)
    assert (loaded.guidance.guide_visual.beta, loaded.guidance.guide_audio.psi) == (0.1, 0.2)
    assert loaded.bece_lambda == 0.5


def test_a_strange_key_in_a_published_checkpoint_is_named(tmp_path):
    path = published(tmp_path, "Co-Guide", **{"module.extra.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"unknown: \['extra.weight'\]"):
        checkpoints.load(path)


def test_a_published_checkpoint_of_another_guidance_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"guidance \(both\); missing: \['guidance.guide_audio"):
        checkpoints.load(published(tmp_path, "Visual-Guide"))


@pytest.mark.parametrize("damage", ["settings", "about", "weights", "setting", "key"])
def test_a_checkpoint_with_a_piece_missing_is_refused(tmp_path, damage):
    checkpoints.save(tmp_path / "a.pt", localizer(), {})
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
    with pytest.raises(UserError, match=r"a\.pt: a damaged checkpoint, or not one of ours"):
        checkpoints.load(tmp_path / "a.pt")

"""The localizer against the published numbers, and against the plain oracle on other inputs."""

import json
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cace.features.batches import Batch
from cace.localizers.cace_net import CaceNet
from cace.localizers.parts import checkpoints
from cace.localizers.parts.contrast import bece_loss, bece_per_view
from cace.localizers.parts.protocol import Sizes
from tests import fill, reference

OURS = {"Co-Guide": "both", "Audio-Guide": "audio", "Visual-Guide": "visual", "None": "none"}
CASES = [(guide, switch) for guide in fill.GUIDES for switch in (False, True)]
ARRAYS = np.load(fill.DATA / "golden.npz")
NUMBERS = json.loads((fill.DATA / "golden.json").read_text())
TERMS = {
    "relevance": "is_event",
    "category": "event_class",
    "gate": "gate",
    "class_activation": "cas",
    "contrast": "contrastive",
}


def golden(name):
    return torch.from_numpy(ARRAYS[name])


def close(found, expected, atol=1e-10, rtol=0.0):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol, check_dtype=False)


def labels():
    return fill.labels().argmax(dim=-1)


def filled(guide, switch, channels=512, **settings):
    """A localizer in float64 whose weights follow the rule of the golden numbers."""
    settings = {"guidance": OURS[guide], **settings}
    localizer = checkpoints.from_authors("filled", fill.params(guide, channels), **settings)
    localizer.contrast_on.fill_(switch)
    return localizer


def keys(localizer, guide):
    """The published key of each of our weights."""
    known = CaceNet.authors_format(fill.params(guide), localizer.settings)
    return checkpoints.authors_keys(localizer, known)


SIZES = Sizes(visual_channels=512, audio_channels=128, categories=28, positions=49)
SMALL = Sizes(visual_channels=16, audio_channels=24, categories=5, positions=4)


def silence():
    return torch.zeros_like(fill.noise()).transpose(0, 1)


def batch(visual, audio):
    return Batch(visual, audio, labels(), clips=3, clips_with_event=3)


class Case(NamedTuple):
    out: tuple
    terms: dict
    gradients: dict


@cache
def case(guide, switch):
    localizer = filled(guide, switch)
    out = localizer(*fill.inputs(), noise=silence())
    terms = localizer.losses(out, batch(*fill.inputs()))
    sum(terms.values()).backward()
    names = keys(localizer, guide)
    return Case(out, terms, {names[n]: p.grad for n, p in localizer.named_parameters()})


@pytest.mark.parametrize(("guide", "switch"), CASES)
def test_outputs_are_the_published_ones(guide, switch):
    out, name = case(guide, switch).out, f"{guide}/switch{switch:d}"
    close(out.relevance, golden(f"{name}/is_event_scores").squeeze(-1).T)
    close(out.class_logits.squeeze(1), golden(f"{name}/event_scores"))
    close(out.extra["gate"], golden(f"{name}/audio_visual_gate").squeeze(-1).T)
    close(out.extra["class_activation"], golden(f"{name}/av_score"))
    close(out.extra["query"], golden(f"{guide}/q"))
    close(out.extra["key"], golden(f"{guide}/q"))


@pytest.mark.parametrize(("guide", "switch"), CASES)
def test_each_loss_term_is_the_published_one(guide, switch):
    expected = NUMBERS["cases"][f"{guide}/switch{switch:d}"]["losses"]
    found = {TERMS[name]: term.item() for name, term in case(guide, switch).terms.items()}
    if not switch:  # computed and thrown away there
        expected = expected | {"contrastive": 0.0}
    assert found == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("guide", "switch"), CASES)
def test_gradient_norms_are_the_published_ones(guide, switch):
    norms = ARRAYS[f"{guide}/switch{switch:d}/grad_norm"]
    expected = dict(zip(fill.state_dict_shapes(guide), norms, strict=True))
    for key, gradient in case(guide, switch).gradients.items():
        if gradient is None:
            # The enhanced feature's weights, while nothing reads it.
            assert np.isnan(expected[key]), key
        else:
            # A softmax does not feel the bias of a key: its gradient is a rounding error.
            close(gradient.norm(), torch.tensor(expected[key]), atol=1e-14, rtol=1e-8)


@pytest.mark.parametrize("guide", ["Co-Guide", "None"])
def test_noisy_keys_are_the_published_ones(guide):
    out = filled(guide, True)(*fill.inputs(), noise=fill.noise().transpose(0, 1))
    close(out.extra["key"], golden(f"{guide}/k_noise"))


@pytest.mark.parametrize("guide", ["Co-Guide", "Audio-Guide"])
def test_the_attention_map_is_the_published_one(guide):
    attention = case(guide, True).out.attention
    close(attention.flatten(2), golden(f"{guide}/spatial"))
    close(attention.sum(dim=(2, 3)), torch.ones(3, 10))


@pytest.mark.parametrize("guide", ["Visual-Guide", "None"])
def test_without_a_guide_for_vision_there_is_no_attention_map(guide):
    assert case(guide, True).out.attention is None


@pytest.mark.parametrize(("guide", "switch"), CASES)
def test_float32_is_close_to_float64(guide, switch):
    visual, audio = (x.float() for x in fill.inputs())
    found = filled(guide, switch).float()(visual, audio, noise=silence().float())
    exact = case(guide, switch).out
    for name in ("relevance", "class_logits"):
        close(getattr(found, name), getattr(exact, name).float(), atol=2e-6)
    for name, values in exact.extra.items():
        close(found.extra[name], values.float(), atol=2e-6)


@pytest.mark.parametrize("fused", [False, True])
def test_five_steps_of_adam_end_where_the_published_ones_do(fused):
    localizer = filled("Co-Guide", True)
    adam = NUMBERS["adam5"]
    optimizer = torch.optim.Adam(localizer.parameters(), lr=adam["learning_rate"], fused=fused)
    for expected in adam["steps"]:
        out = localizer(*fill.inputs(), noise=silence())
        loss = sum(localizer.losses(out, batch(*fill.inputs())).values())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(localizer.parameters(), adam["max_grad_norm"])
        optimizer.step()
        assert loss.item() == pytest.approx(expected["total"], abs=1e-9)
        assert norm.item() == pytest.approx(expected["total_grad_norm"], rel=1e-8)
    out = localizer(*fill.inputs(), noise=silence())
    close(out.class_logits.squeeze(1), golden("Co-Guide/adam5/event_scores"), atol=1e-9)
    close(out.extra["query"], golden("Co-Guide/adam5/q"), atol=1e-9)


def test_the_contrast_is_the_published_one_where_it_saturates():
    query, key, is_event = fill.contrast_case()
    query, key = query.requires_grad_(), key.requires_grad_()
    temperature = NUMBERS["contrast"]["temperature"]
    close(bece_per_view(query, key, is_event.bool(), temperature), golden("contrast/per_anchor"))
    bece_loss(query, key, is_event.bool(), temperature).backward()
    close(query.grad[..., :16], golden("contrast/grad_q"), atol=1e-14)
    close(key.grad[..., :16], golden("contrast/grad_k"), atol=1e-14)


@given(
    st.sampled_from(fill.GUIDES),
    st.booleans(),
    st.integers(1, 12),
    st.integers(1, 4),
    st.sampled_from([96, 512]),
)
@settings(max_examples=12)
def test_other_lengths_grids_and_channels_agree_with_the_oracle(
    guide, switch, segments, grid, channels
):
    visual, audio = fill.inputs(2, segments, grid, channels)
    noise = fill.noise(2, segments)
    knobs = {"alpha": 0.2, "beta": 0.5, "gamma": 0.1, "psi": 0.6}
    expected = reference.forward(
        fill.params(guide, channels), visual, audio, guide=guide, switch=switch, noise=noise,
        lambda_=0.3, **knobs,
    )  # fmt: skip
    localizer = filled(guide, switch, channels, bece_lambda=0.3, **knobs)
    with torch.inference_mode():
        out = localizer(visual, audio, noise=noise.transpose(0, 1))
    close(out.relevance, expected.is_event_scores.squeeze(-1).T)
    close(out.class_logits.squeeze(1), expected.event_scores)
    close(out.extra["class_activation"], expected.av_score)
    close(out.extra["key"], expected.k)


@pytest.mark.parametrize(
    ("guide", "parameters"),
    # The published counts less what is never trained there.
    [
        ("Co-Guide", 13_118_681 - 3_835_264),
        ("Audio-Guide", 13_118_681 - 3_835_264 - 542_464),
        ("Visual-Guide", 12_723_673 - 4_853_378),
        ("None", 11_029_719 - 3_702_912),
    ],
)
def test_there_are_no_parameters_that_nothing_trains(guide, parameters):
    localizer = CaceNet(SIZES, guidance=OURS[guide])
    assert sum(p.numel() for p in localizer.parameters()) == parameters


def small_batch(audio_channels=24):
    return torch.rand(2, 10, 2, 2, 16), torch.rand(2, 10, audio_channels)


def test_without_bece_there_is_no_enhanced_feature():
    localizer = CaceNet(SMALL, width=32, bece_enabled=False)
    localizer.start_epoch(1.0)
    assert not localizer.contrast_on
    assert localizer.train()(*small_batch()).extra.keys() == {"gate", "class_activation"}
    assert not any("enhance" in name for name, _ in localizer.named_parameters())


def test_lambda_zero_makes_the_contrast_path_invisible():
    localizer = CaceNet(SMALL, width=32, bece_lambda=0.0).eval()
    batch = small_batch()
    off = localizer(*batch).relevance
    localizer.start_epoch(1.0)
    assert torch.equal(localizer(*batch).relevance, off)


def test_the_contrast_sets_in_after_its_share_of_the_epochs():
    localizer = CaceNet(SMALL, width=32, bece_start=0.25)
    states = []
    for epoch in range(8):
        localizer.start_epoch(epoch / 8)
        states.append(bool(localizer.contrast_on))
    assert states == [False, False, True, True, True, True, True, True]


def test_the_state_of_the_contrast_is_part_of_the_weights():
    trained, fresh = (CaceNet(SMALL, width=32) for _ in range(2))
    trained.start_epoch(1.0)
    fresh.load_state_dict(trained.state_dict())
    assert fresh.contrast_on


def test_other_audio_channels_are_brought_to_those_of_the_network():
    localizer = CaceNet(SMALL._replace(audio_channels=2048)).eval()
    out = localizer(*small_batch(2048))
    assert (out.relevance.shape, out.class_logits.shape) == ((2, 10), (2, 1, 5))


def test_keys_are_drawn_in_training_and_absent_otherwise():
    localizer = CaceNet(SMALL, width=32)
    assert "key" in localizer.train()(*small_batch()).extra
    assert "key" not in localizer.eval()(*small_batch()).extra


def test_the_contrast_is_weighted():
    torch.manual_seed(0)
    one = CaceNet(SMALL, width=32, bece_weight=1.0)
    ten = CaceNet(SMALL, width=32, bece_weight=10.0)
    one.start_epoch(1.0)
    ten.start_epoch(1.0)
    visual, audio = small_batch()
    out = one(visual, audio, noise=torch.randn(2, 10, 16))
    clips = Batch(visual, audio, torch.tensor([[5, 1] * 5, [2] * 10]), 2, 2)
    first, second = (localizer.losses(out, clips)["contrast"].item() for localizer in (one, ten))
    assert second == pytest.approx(10 * first) and first > 0


@pytest.mark.parametrize("bece_heads", ["event", "both"])
def test_the_enhanced_feature_serves_one_head_or_both(bece_heads):
    localizer = CaceNet(SMALL, width=32, bece_heads=bece_heads).eval()
    localizer.start_epoch(1.0)
    given = {}
    for name in ("enhance", "relevance_head", "class_head"):
        getattr(localizer, name).register_forward_hook(
            lambda _, inputs, __, name=name: given.update({name: inputs[0]})
        )
    with torch.inference_mode():
        localizer(*small_batch())
        fused = given["enhance"]
        enhanced = fused + 0.6 * localizer.enhance(fused).relu()  # Eq. 8
    close(given["relevance_head"], enhanced)
    close(given["class_head"], (enhanced if bece_heads == "both" else fused).amax(dim=1))

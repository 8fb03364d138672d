"""The localizer against the published numbers, and against the plain oracle on other inputs."""

import json
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cace.localizers import checkpoints
from cace.localizers.cace_net import Localizer
from cace.localizers.parts.losses import bece_loss, bece_per_view, loss_terms, total
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


def filled(guide, switch, **settings):
    """A localizer in float64 whose weights follow the rule of the golden numbers."""
    localizer = Localizer(**{**SIZES, "guidance": OURS[guide], **settings}).double().eval()
    params = fill.params(guide, localizer.settings["visual_channels"])
    names = checkpoints.published_names(localizer)
    localizer.load_state_dict({ours: params[theirs] for ours, theirs in names.items()})
    localizer.contrast_on = switch
    return localizer


SIZES = {"visual_channels": 512, "audio_channels": 128, "categories": 28}


def silence():
    return torch.zeros_like(fill.noise()).transpose(0, 1)


class Case(NamedTuple):
    out: tuple
    terms: tuple
    gradients: dict


@cache
def case(guide, switch):
    localizer = filled(guide, switch)
    out = localizer(*fill.inputs(), noise=silence())
    terms = loss_terms(out, labels(), 28, contrast=True, temperature=0.01)
    total(terms if switch else terms._replace(contrast=None), 1.0).backward()
    names = checkpoints.published_names(localizer)
    return Case(out, terms, {names[n]: p.grad for n, p in localizer.named_parameters()})


@pytest.mark.parametrize(("guide", "switch"), CASES)
def test_outputs_are_the_published_ones(guide, switch):
    out, name = case(guide, switch).out, f"{guide}/switch{switch:d}"
    close(out.relevance, golden(f"{name}/is_event_scores").squeeze(-1).T)
    close(out.class_logits, golden(f"{name}/event_scores"))
    close(out.gate, golden(f"{name}/audio_visual_gate").squeeze(-1).T)
    close(out.class_activation, golden(f"{name}/av_score"))
    close(out.query, golden(f"{guide}/q"))
    close(out.key, golden(f"{guide}/q"))


@pytest.mark.parametrize(("guide", "switch"), CASES)
def test_each_loss_term_is_the_published_one(guide, switch):
    expected = NUMBERS["cases"][f"{guide}/switch{switch:d}"]["losses"]
    found = {TERMS[name]: term.item() for name, term in case(guide, switch).terms._asdict().items()}
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
    close(out.key, golden(f"{guide}/k_noise"))


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
    for ours, exact in zip(found, case(guide, switch).out, strict=True):
        if exact is not None:
            close(ours, exact.float(), atol=2e-6)


@pytest.mark.parametrize("fused", [False, True])
def test_five_steps_of_adam_end_where_the_published_ones_do(fused):
    localizer = filled("Co-Guide", True)
    adam = NUMBERS["adam5"]
    optimizer = torch.optim.Adam(localizer.parameters(), lr=adam["learning_rate"], fused=fused)
    for expected in adam["steps"]:
        out = localizer(*fill.inputs(), noise=silence())
        loss = total(loss_terms(out, labels(), 28, contrast=True, temperature=0.01), 1.0)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(localizer.parameters(), adam["max_grad_norm"])
        optimizer.step()
        assert loss.item() == pytest.approx(expected["total"], abs=1e-9)
        assert norm.item() == pytest.approx(expected["total_grad_norm"], rel=1e-8)
    out = localizer(*fill.inputs(), noise=silence())
    close(out.class_logits, golden("Co-Guide/adam5/event_scores"), atol=1e-9)
    close(out.query, golden("Co-Guide/adam5/q"), atol=1e-9)


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
@settings(max_examples=12, deadline=None)
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
    localizer = filled(guide, switch, visual_channels=channels, bece_lambda=0.3, **knobs)
    with torch.inference_mode():
        out = localizer(visual, audio, noise=noise.transpose(0, 1))
    close(out.relevance, expected.is_event_scores.squeeze(-1).T)
    close(out.class_logits, expected.event_scores)
    close(out.class_activation, expected.av_score)
    close(out.key, expected.k)


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
    localizer = Localizer(**SIZES, guidance=OURS[guide])
    assert sum(p.numel() for p in localizer.parameters()) == parameters


def test_without_bece_there_is_no_enhanced_feature():
    localizer = Localizer(**SIZES, bece=False).eval()
    localizer.contrast_on = True
    out = localizer(torch.rand(1, 3, 2, 2, 512), torch.rand(1, 3, 128))
    assert out.query is None and out.key is None
    assert not any("enhance" in name for name, _ in localizer.named_parameters())


def test_lambda_zero_makes_the_contrast_path_invisible():
    localizer = filled("Co-Guide", True, bece_lambda=0.0)
    with torch.inference_mode():
        on = localizer(*fill.inputs()).relevance
        localizer.contrast_on = False
        assert torch.equal(localizer(*fill.inputs()).relevance, on)


def test_other_audio_channels_are_brought_to_128():
    localizer = Localizer(visual_channels=16, audio_channels=2048, categories=5).eval()
    out = localizer(torch.rand(2, 10, 3, 3, 16), torch.rand(2, 10, 2048))
    assert (out.relevance.shape, out.class_logits.shape) == ((2, 10), (2, 5))


def test_keys_are_drawn_in_training_and_absent_otherwise():
    localizer = Localizer(visual_channels=16, audio_channels=128, categories=5)
    batch = torch.rand(2, 10, 2, 2, 16), torch.rand(2, 10, 128)
    assert localizer.train()(*batch).key is not None
    assert localizer.eval()(*batch).key is None


def test_the_enhanced_feature_may_serve_both_heads():
    localizer = filled("Co-Guide", True, bece_heads="both")
    enhanced = []
    localizer.relevance_head.register_forward_hook(lambda _, given, __: enhanced.append(given[0]))
    with torch.inference_mode():
        out = localizer(*fill.inputs())
        expected = localizer.class_head(enhanced[0].amax(dim=1)) + 0.3 * out.class_activation
    close(out.class_logits, expected)
    close(out.relevance, case("Co-Guide", True).out.relevance)
    assert (out.class_logits - case("Co-Guide", True).out.class_logits).abs().max() > 1e-3

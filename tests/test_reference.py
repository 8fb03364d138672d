"""The oracle itself, against numbers of the published localizer (tests/data/README.md)."""

import json
import math
from functools import cache

import numpy as np
import pytest
import torch

from tests import fill, reference

CASES = [(guide, switch) for guide in fill.GUIDES for switch in (False, True)]
ARRAYS = np.load(fill.DATA / "golden.npz")
NUMBERS = json.loads((fill.DATA / "golden.json").read_text())
OUTPUTS = ("is_event_scores", "event_scores", "audio_visual_gate", "av_score")
INERT = ("video_key.bias", "video_key2.bias", "audio_key.bias", "vaudio_key.bias")


def golden(name):
    return torch.from_numpy(ARRAYS[name])


def close(found, expected, atol=1e-10):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def total(losses, switch):
    return sum(loss for name, loss in losses.items() if switch or name != "contrastive")


def trainable(guide):
    return {key: value.requires_grad_() for key, value in fill.params(guide).items()}


def run(params, guide, switch, noise):
    out = reference.forward(params, *fill.inputs(), guide=guide, switch=switch, noise=noise)
    return out, reference.losses(out, fill.labels())


@cache
def case(guide, switch):
    """Outputs, losses and gradients without noise."""
    params = trainable(guide)
    out, losses = run(params, guide, switch, torch.zeros_like(fill.noise()))
    total(losses, switch).backward()
    return out, losses, {key: value.grad for key, value in params.items()}


@pytest.mark.parametrize(("guide", "switch"), CASES)
def test_outputs_are_the_published_ones(guide, switch):
    out, _, _ = case(guide, switch)
    for name in OUTPUTS:
        close(getattr(out, name), golden(f"{guide}/switch{switch:d}/{name}"))
    close(out.q, golden(f"{guide}/q"))
    close(out.k, golden(f"{guide}/q"))


@pytest.mark.parametrize(("guide", "switch"), CASES)
def test_losses_are_the_published_ones(guide, switch):
    _, losses, _ = case(guide, switch)
    expected = NUMBERS["cases"][f"{guide}/switch{switch:d}"]["losses"]
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        expected, rel=0, abs=1e-10
    )


@pytest.mark.parametrize(("guide", "switch"), CASES)
def test_gradient_norms_are_the_published_ones(guide, switch):
    _, _, grads = case(guide, switch)
    expected = ARRAYS[f"{guide}/switch{switch:d}/grad_norm"]
    found = [math.nan if grad is None else grad.norm().item() for grad in grads.values()]
    inert = [key.endswith(INERT) for key in grads]
    atol = np.where(inert, 1e-14, 0.0)
    far = ~(np.abs(found - expected) <= 1e-8 * np.abs(expected) + atol)
    far &= ~(np.isnan(found) & np.isnan(expected))
    assert [key for key, wrong in zip(grads, far, strict=True) if wrong] == []


@pytest.mark.parametrize(("guide", "switch"), [("Co-Guide", True), ("None", False)])
def test_noise_moves_k_alone_as_published(guide, switch):
    with torch.no_grad():
        out, losses = run(fill.params(guide), guide, switch, fill.noise())
    close(out.q, golden(f"{guide}/q"))
    close(out.k, golden(f"{guide}/k_noise"))
    expected = NUMBERS["cases"][f"{guide}/switch{switch:d}"]["contrastive_with_noise"]
    assert losses["contrastive"].item() == pytest.approx(expected, rel=0, abs=1e-10)


def test_audio_guide_is_co_guide_with_psi_0():
    zero = torch.zeros_like(fill.noise())
    with torch.no_grad():
        found = reference.forward(
            fill.params("Co-Guide"),
            *fill.inputs(),
            guide="Co-Guide",
            switch=True,
            noise=zero,
            psi=0,
        )
    expected, _, _ = case("Audio-Guide", True)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_spatial_weights_are_a_distribution_over_the_grid():
    out, _, _ = case("Co-Guide", True)
    close(out.spatial, golden("Co-Guide/spatial"))
    close(out.spatial.sum(dim=-1), torch.ones(3, 10, dtype=torch.float64))


def test_five_adam_steps_end_where_the_published_ones_do():
    params, zero = trainable("Co-Guide"), torch.zeros_like(fill.noise())
    expected = NUMBERS["adam5"]
    optimizer = torch.optim.Adam(params.values(), lr=expected["learning_rate"])
    for step in expected["steps"]:
        _, losses = run(params, "Co-Guide", True, zero)
        assert total(losses, True).item() == pytest.approx(step["total"], rel=0, abs=1e-9)
        optimizer.zero_grad()
        total(losses, True).backward()
        torch.nn.utils.clip_grad_norm_(params.values(), expected["max_grad_norm"])
        optimizer.step()
    with torch.no_grad():
        out, _ = run(params, "Co-Guide", True, zero)
    for name in (*OUTPUTS, "q"):
        close(getattr(out, name), golden(f"Co-Guide/adam5/{name}"), atol=1e-9)


def test_contrast_is_the_published_one_for_every_anchor():
    q, k, is_event = fill.contrast_case()
    found = reference.contrast_per_anchor(q, k, is_event, NUMBERS["contrast"]["temperature"])
    close(found, golden("contrast/per_anchor"))
    assert found.mean().item() == pytest.approx(NUMBERS["contrast"]["loss"], rel=0, abs=1e-10)


def test_gradient_of_contrast_is_the_published_one():
    q, k, is_event = fill.contrast_case()
    views = {"q": q.requires_grad_(), "k": k.requires_grad_()}
    reference.contrast_per_anchor(q, k, is_event, temperature=0.01).mean().backward()
    for name, view in views.items():
        close(view.grad[..., :16], golden(f"contrast/grad_{name}"), atol=1e-14)
        close(view.grad.norm(dim=-1), golden(f"contrast/grad_{name}_norm"), atol=1e-14)


@pytest.mark.parametrize("guide", fill.GUIDES)
def test_any_length_grid_and_visual_width_will_do(guide):
    visual, audio = fill.inputs(batch=1, segments=3, grid=2, visual=20)
    out = reference.forward(
        fill.params(guide, visual_channels=20),
        visual[:, :, :1],  # not square
        audio,
        guide=guide,
        switch=True,
        noise=fill.noise(batch=1, segments=3),
    )
    assert out.is_event_scores.shape == (3, 1, 1)
    assert out.k.shape == (1, 3, 256)

"""Eq. 7, against the equation written out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from cace.localizers.parts.contrast import bece_floor, bece_loss, bece_per_view


def views(clips, segments, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (
        normalize(torch.randn(clips, segments, 4, generator=generator, dtype=dtype), dim=-1)
        for _ in range(2)
    )


@given(st.lists(st.booleans(), min_size=2, max_size=6), st.integers(0, 99), st.floats(0.02, 1))
@settings(max_examples=40)
def test_bece_is_equation_7(events, seed, tau):
    query, key = views(1, len(events), seed)
    is_event = torch.tensor([events])
    rows = torch.cat([query, key], dim=1)[0]
    count = len(events)
    for i, found in enumerate(bece_per_view(query, key, is_event, tau)[0]):
        score = [math.exp(float(rows[i] @ rows[j]) / tau) for j in range(2 * count)]
        others = [j for j in range(2 * count) if j != i]
        event = events[i % count]
        positives = [j for j in others if (events[j % count] if event else j % count == i % count)]
        mean = sum(score[k] / sum(score[p] for p in others) for k in positives) / len(positives)
        assert found.item() == pytest.approx(-math.log(mean), rel=1e-6)


def test_bece_cannot_beat_chance_on_identical_segments():
    same = normalize(torch.ones(2, 10, 4), dim=-1)
    loss = bece_loss(same, same, torch.zeros(2, 10, dtype=torch.bool), temperature=0.01)
    # All pairs score alike, so the one positive is a uniform draw from the other 2T - 1 = 19.
    assert loss.item() == pytest.approx(math.log(19), rel=1e-5)


def test_bece_of_a_clip_of_events_has_no_gradient():
    query, key = (view.requires_grad_() for view in views(1, 10))
    bece_loss(query, key, torch.ones(1, 10, dtype=torch.bool), 0.01).backward()
    # All others are positives: nothing to tell apart.
    assert query.grad.abs().max() < 1e-12


def test_bece_is_finite_in_float32_at_the_published_temperature():
    query, _ = views(4, 10, dtype=torch.float32)
    query.requires_grad_()
    is_event = torch.arange(40).view(4, 10) % 3 > 0
    loss = bece_loss(query, query, is_event, 0.01)
    loss.backward()
    assert loss.isfinite() and query.grad.isfinite().all()


@given(st.lists(st.booleans(), min_size=2, max_size=6), st.integers(0, 99), st.floats(0.02, 1))
@settings(max_examples=40)
def test_supcon_is_the_mean_over_positives_of_log_probabilities(events, seed, tau):
    query, key = views(1, len(events), seed)
    rows = torch.cat([query, key], dim=1)[0]
    count = len(events)
    per_view = bece_per_view(query, key, torch.tensor([events]), tau, form="supcon")[0]
    for i, found in enumerate(per_view):
        score = [math.exp(float(rows[i] @ rows[j]) / tau) for j in range(2 * count)]
        others = [j for j in range(2 * count) if j != i]
        event = events[i % count]
        positives = [j for j in others if (events[j % count] if event else j % count == i % count)]
        logs = [math.log(score[k] / sum(score[p] for p in others)) for k in positives]
        assert found.item() == pytest.approx(-sum(logs) / len(logs), rel=1e-6)


@pytest.mark.parametrize("form", ["paper", "supcon"])
def test_the_floor_is_reached_where_events_agree_and_backgrounds_stand_alone(form):
    # Two events in one direction, three background segments each in its own.
    is_event = torch.tensor([[True, True, False, False, False]])
    one = torch.eye(5, dtype=torch.float64)[[0, 0, 1, 2, 3]].unsqueeze(0)
    # An event's view has 3 positives, a background's 1: (4 log 3 + 6 log 1) / 10.
    assert bece_floor(is_event) == pytest.approx(0.4 * math.log(3))
    assert bece_loss(one, one, is_event, 0.01, form).item() == pytest.approx(0.4 * math.log(3))


@given(st.lists(st.booleans(), min_size=2, max_size=6), st.integers(0, 99))
@settings(max_examples=25)
def test_no_form_falls_below_the_floor_and_supcon_is_the_larger(events, seed):
    query, key = views(1, len(events), seed)
    is_event = torch.tensor([events])
    paper, supcon = (bece_loss(query, key, is_event, 0.1, form) for form in ("paper", "supcon"))
    assert bece_floor(is_event) <= paper + 1e-9
    assert paper <= supcon + 1e-9

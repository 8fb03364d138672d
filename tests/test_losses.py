import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from cace.localizers.cace_net import Localization
from cace.localizers.parts.losses import (
    bece_floor,
    bece_loss,
    bece_per_view,
    clip_category,
    loss_terms,
    part_of_batch,
    total,
)

BACKGROUND = 3


def localization(relevance, class_logits, gate):
    return Localization(relevance, class_logits, gate, 2 * class_logits, None, None, None)


def terms(relevance, class_logits, gate, labels):
    out = localization(relevance, class_logits, gate)
    return loss_terms(out, labels, BACKGROUND, contrast=False, temperature=0.01)


def test_terms_of_an_undecided_localizer_are_log_2_and_log_c():
    labels = torch.tensor([[3, 1, 1], [3, 3, 0]])
    found = terms(torch.zeros(2, 3), torch.zeros(2, 3), torch.full((2, 3), 0.0), labels)
    assert found.relevance.item() == pytest.approx(math.log(2))
    assert found.category.item() == pytest.approx(math.log(3))
    assert found.contrast is None


def test_a_perfect_gate_still_costs():
    # It is squashed twice: an event costs log(1 + 1/e), a background segment log 2.
    labels = torch.tensor([[3, 1, 1, 1]])
    found = terms(torch.zeros(1, 4), torch.zeros(1, 3), torch.tensor([[0.0, 1, 1, 1]]), labels)
    expected = (3 * math.log(1 + math.exp(-1)) + math.log(2)) / 4
    assert found.gate.item() == pytest.approx(expected)


def test_a_clip_without_an_event_does_not_count_for_the_category():
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[3, 2, 2], [3, 3, 3]])
    both = terms(torch.zeros(2, 3), logits, torch.zeros(2, 3), labels)
    alone = terms(torch.zeros(1, 3), logits[:1], torch.zeros(1, 3), labels[:1])
    assert both.category == alone.category
    assert both.class_activation == alone.class_activation


def test_a_batch_without_any_event_costs_nothing_for_the_category():
    labels = torch.full((2, 3), BACKGROUND)
    assert terms(torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(2, 3), labels).category == 0


def test_the_total_is_the_sum_with_the_contrast_weighted():
    found = terms(
        torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([[3, 1, 1]])
    )
    four = sum(float(term) for term in found[:4])
    with_contrast = found._replace(contrast=torch.tensor(2.0))
    assert total(with_contrast, 0.5).item() == pytest.approx(four + 1)
    assert total(found, 0.5).item() == pytest.approx(four)


@pytest.mark.parametrize("parts", [[1, 4], [2, 3], [1, 1, 1, 1, 1]])
def test_the_parts_of_a_batch_add_up_to_it(parts):
    # Clips without an event, which do not count for the category, are spread unevenly.
    labels = torch.tensor([[3, 3, 3], [3, 1, 1], [0, 0, 0], [3, 3, 3], [2, 2, 3]])
    generator = torch.Generator().manual_seed(0)
    scores, logits = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in "ab")
    query, key = views(5, 3)

    def of(some):
        out = Localization(
            scores[some], logits[some], scores[some].sigmoid(), 2 * logits[some], None, query[some],
            key[some],
        )  # fmt: skip
        return loss_terms(out, labels[some], BACKGROUND, contrast=True, temperature=0.1)

    whole = of(slice(0, 5))
    shares = [
        part_of_batch(of(places), labels[places], labels, BACKGROUND)
        for places in torch.arange(5).split(parts)
    ]
    for name, expected in whole._asdict().items():
        torch.testing.assert_close(sum(getattr(share, name) for share in shares), expected)


def test_the_category_of_two_events_is_the_larger():
    category, has_event = clip_category(torch.tensor([[3, 0, 2], [3, 3, 3]]), BACKGROUND)
    assert (category[0].item(), has_event.tolist()) == (2, [True, False])


def views(clips, segments, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (
        normalize(torch.randn(clips, segments, 4, generator=generator, dtype=dtype), dim=-1)
        for _ in range(2)
    )


@given(st.lists(st.booleans(), min_size=2, max_size=6), st.integers(0, 99), st.floats(0.02, 1))
@settings(max_examples=40, deadline=None)
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
@settings(max_examples=40, deadline=None)
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
@settings(max_examples=25, deadline=None)
def test_no_form_falls_below_the_floor_and_supcon_is_the_larger(events, seed):
    query, key = views(1, len(events), seed)
    is_event = torch.tensor([events])
    paper, supcon = (bece_loss(query, key, is_event, 0.1, form) for form in ("paper", "supcon"))
    assert bece_floor(is_event) <= paper + 1e-9
    assert paper <= supcon + 1e-9

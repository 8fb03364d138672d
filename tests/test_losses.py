"""The loss terms that methods share, and what the protocol demands of them."""

import math

import pytest
import torch

from cace.features.batches import Batch
from cace.localizers.parts.checkpoints import build
from cace.localizers.parts.losses import category_loss, clip_category, event_loss
from cace.localizers.parts.protocol import Sizes
from cace.settings import LOCALIZERS

BACKGROUND = 3


def batch(labels, visual=None, audio=None):
    labels = torch.tensor(labels) if isinstance(labels, list) else labels
    with_event = int((labels != BACKGROUND).any(dim=1).sum())
    return Batch(visual, audio, labels, len(labels), with_event)


def test_an_undecided_localizer_costs_log_2_and_log_c():
    clips = batch([[3, 1, 1], [3, 3, 0]])
    assert event_loss(torch.zeros(2, 3), clips, BACKGROUND).item() == pytest.approx(math.log(2))
    assert category_loss(torch.zeros(2, 3), clips, BACKGROUND).item() == pytest.approx(math.log(3))


def test_a_perfect_gate_still_costs():
    # It is squashed twice: an event costs log(1 + 1/e), a background segment log 2.
    found = event_loss(torch.tensor([[0.0, 1, 1, 1]]), batch([[3, 1, 1, 1]]), BACKGROUND)
    expected = (3 * math.log(1 + math.exp(-1)) + math.log(2)) / 4
    assert found.item() == pytest.approx(expected)


def test_a_clip_without_an_event_does_not_count_for_the_category():
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    both = category_loss(logits, batch([[3, 2, 2], [3, 3, 3]]), BACKGROUND)
    alone = category_loss(logits[:1], batch([[3, 2, 2]]), BACKGROUND)
    assert both == alone


def test_a_batch_without_any_event_costs_nothing_for_the_category():
    clips = batch(torch.full((2, 3), BACKGROUND))
    assert category_loss(torch.ones(2, 3), clips, BACKGROUND) == 0


def test_the_category_of_two_events_is_the_larger():
    category, has_event = clip_category(torch.tensor([[3, 0, 2], [3, 3, 3]]), BACKGROUND)
    assert (category[0].item(), has_event.tolist()) == (2, [True, False])


@pytest.mark.parametrize("parts", [[1, 4], [2, 3], [1, 1, 1, 1, 1]])
@pytest.mark.parametrize("name", LOCALIZERS)
def test_the_terms_of_the_parts_of_a_batch_add_up_to_its_terms(name, parts):
    torch.manual_seed(0)
    localizer = build(name, Sizes(6, 4, BACKGROUND, 4), width=16).double().eval()
    localizer.start_epoch(1.0)
    # Clips without an event, which do not count for the category, are spread unevenly.
    labels = torch.tensor([[3, 3, 3], [3, 1, 1], [0, 0, 0], [3, 3, 3], [2, 2, 3]])
    complete = batch(labels, torch.rand(5, 3, 2, 2, 6).double(), torch.rand(5, 3, 4).double())
    noise = {"noise": torch.randn(5, 3, 8).double()} if name == "cace_net" else {}

    def terms(places):
        some = complete._replace(
            visual=complete.visual[places], audio=complete.audio[places], labels=labels[places]
        )
        drawn = {key: value[places] for key, value in noise.items()}
        return localizer.losses(localizer(some.visual, some.audio, **drawn), some)

    expected = terms(torch.arange(5))
    shares = [terms(places) for places in torch.arange(5).split(parts)]
    assert all(expected[term] > 0 for term in expected)
    for term, value in expected.items():
        torch.testing.assert_close(sum(share[term] for share in shares), value)

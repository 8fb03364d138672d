"""AVEL against the published numbers (tests/data/README.md)."""

import json
import math

import numpy as np
import pytest
import torch

from cace.evaluation.accuracy import segment_predictions
from cace.features.batches import Batch
from cace.localizers.avel import Avel
from cace.localizers.parts import checkpoints
from cace.localizers.parts.protocol import Localization, Sizes
from tests import fill
from tests.test_cace_net import close, labels

ARRAYS = np.load(fill.DATA / "avel.npz")
NUMBERS = json.loads((fill.DATA / "avel.json").read_text())
SMALL = Sizes(visual_channels=16, audio_channels=8, categories=3, positions=4)


@pytest.fixture(scope="module")
def weights():
    return {
        key: fill.fill_param(key, shape) for key, shape in fill.state_dict_shapes("avel").items()
    }


@pytest.fixture(scope="module")
def localizer(weights):
    return checkpoints.from_authors("filled", weights, "avel")


@pytest.fixture(scope="module")
def out(localizer):
    return localizer(*fill.inputs())


def test_probabilities_are_the_published_ones(out):
    close(out.extra["scores"].softmax(dim=-1), torch.from_numpy(ARRAYS["out"]))


def test_the_largest_of_29_scores_is_what_relevance_and_category_decide(out):
    with torch.no_grad():
        relevance = out.relevance.sigmoid().numpy()
        category = out.class_logits.argmax(dim=-1).numpy()
    found = segment_predictions(relevance, category, 0.5, background=28)
    assert np.array_equal(found, ARRAYS["pred"])


def test_background_is_decided_where_its_score_is_the_largest():
    localizer = Avel(SMALL, width=8)
    scores = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 5.0, 4.0]]])
    localizer.scores = torch.nn.Linear(4, 4)
    torch.nn.init.zeros_(localizer.scores.weight)
    with torch.no_grad():
        localizer.scores.bias.copy_(scores[0, 0])
    out = localizer(torch.rand(1, 2, 2, 2, 16), torch.rand(1, 2, 8))
    close(out.relevance, torch.tensor([[-1.0, -1.0]]))
    close(out.class_logits[0, 0], torch.tensor([1.0, 2.0, 3.0]))


def test_the_loss_and_gradient_norms_are_the_published_ones(localizer, weights):
    visual, audio = fill.inputs()
    batch = Batch(visual, audio, labels(), clips=3, clips_with_event=3)
    terms = localizer.losses(localizer(visual, audio), batch)
    expected = NUMBERS["losses"]["multilabel_soft_margin"]
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"segments": expected}, abs=1e-10
    )
    sum(terms.values()).backward()
    names = checkpoints.authors_keys(localizer, Avel.authors_format(weights, {}))
    found = {names[name]: p.grad.norm().item() for name, p in localizer.named_parameters()}
    assert found == pytest.approx(NUMBERS["grad_norm_all"], rel=1e-8, abs=1e-13)


def test_the_loss_of_a_perfect_answer_is_its_floor():
    # 28 labels cost log 2 each and the right one log(1 + 1/e), a mean over 29.
    localizer = Avel(SMALL._replace(categories=28), width=8)
    scores = 1e4 * torch.nn.functional.one_hot(torch.full((1, 10), 7), 29).double()
    out = localizer(torch.rand(1, 10, 2, 2, 16), torch.rand(1, 10, 8))
    out = out._replace(extra={"scores": scores})
    batch = Batch(torch.zeros(1), torch.zeros(1), torch.full((1, 10), 7), 1, 1)
    floor = (math.log(1 + math.exp(-1)) + 28 * math.log(2)) / 29
    assert localizer.losses(out, batch)["segments"].item() == pytest.approx(floor, abs=1e-9)


def mean_loss(background, of_background):
    """Of the same answer for 100 segments, whose events share 28 categories.

    background: how many of them are background. of_background: its probability.
    """
    localizer = Avel(SMALL._replace(categories=28), width=8)
    labels = torch.cat([torch.full((background,), 28), torch.arange(100 - background) % 28])
    rest = torch.full((28,), (1 - of_background) / 28)
    scores = torch.cat([rest, torch.tensor([of_background])]).log().expand(1, 100, 29)
    out = Localization(scores[..., 0], scores[..., :-1], None, {"scores": scores})
    batch = Batch(torch.zeros(1), torch.zeros(1), labels.unsqueeze(0), 1, 1)
    return localizer.losses(out, batch)["segments"].item()


@pytest.mark.parametrize(("background", "is_certain"), [(48, True), (17, False)])
def test_frequent_background_draws_an_untrained_answer_to_certainty(background, is_certain):
    # Its gain per probability is its share - σ(1) there, and a category's is its share - σ(0): on
    # mini 0.48 - 0.73 > 0.02 - 0.50, on AVE 0.17 - 0.73 < 0.03 - 0.50.
    assert (mean_loss(background, 1.0) < mean_loss(background, 0.99)) == is_certain


def test_the_attention_is_a_share_of_the_grid(out):
    close(out.attention.sum(dim=(2, 3)), torch.ones(3, 10))


def test_the_published_size():
    sizes = Sizes(visual_channels=512, audio_channels=128, categories=28, positions=49)
    assert sum(p.numel() for p in Avel(sizes).parameters()) == 1_335_246


@pytest.mark.parametrize(("clips", "segments", "grid"), [(1, 7, 2), (2, 10, 2)])
def test_other_lengths_and_batches(clips, segments, grid):
    out = Avel(SMALL, width=8)(
        torch.rand(clips, segments, grid, grid, 16), torch.rand(clips, segments, 8)
    )
    assert out.relevance.shape == (clips, segments)
    assert out.class_logits.shape == (clips, segments, 3)


def test_silenced_vision_has_one_position():
    out = Avel(SMALL._replace(positions=1), width=8)(
        torch.zeros(2, 10, 1, 1, 16), torch.rand(2, 10, 8)
    )
    close(out.attention, torch.ones(2, 10, 1, 1))

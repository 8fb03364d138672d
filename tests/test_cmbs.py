"""CMBS against the plain oracle, with the weights and inputs of the golden numbers."""

import pytest
import torch

from cace.features.batches import Batch
from cace.localizers.cmbs import Cmbs
from cace.localizers.parts import checkpoints
from cace.localizers.parts.protocol import Sizes
from tests import fill, reference
from tests.test_cace_net import TERMS, close, labels

SIZES = Sizes(visual_channels=512, audio_channels=128, categories=28, positions=49)


@pytest.fixture(scope="module")
def weights():
    return {
        key: fill.fill_param(key, shape).requires_grad_()
        for key, shape in fill.state_dict_shapes("cmbs").items()
    }


@pytest.fixture(scope="module")
def localizer(weights):
    plain = {key: value.detach().clone() for key, value in weights.items()}
    return checkpoints.from_authors("filled", plain, "cmbs")


def oracle(weights, **knobs):
    return reference.forward(
        weights, *fill.inputs(), guide="CMBS", switch=False, noise=fill.noise(), **knobs
    )


def test_outputs_agree_with_the_oracle(localizer, weights):
    out, expected = localizer(*fill.inputs()), oracle(weights)
    close(out.relevance, expected.is_event_scores.squeeze(-1).T)
    close(out.class_logits.squeeze(1), expected.event_scores)
    close(out.extra["gate"], expected.audio_visual_gate.squeeze(-1).T)
    close(out.extra["class_activation"], expected.av_score)
    close(out.attention.flatten(2), expected.spatial)


def test_its_knobs_are_those_of_the_oracle(weights):
    plain = {key: value.detach() for key, value in weights.items()}
    knobs = {"alpha": 0.2, "beta": 0.5, "gamma": 0.1}
    out = checkpoints.from_authors("filled", plain, "cmbs", **knobs)(*fill.inputs())
    expected = oracle(weights, **knobs)
    close(out.relevance, expected.is_event_scores.squeeze(-1).T)
    close(out.class_logits.squeeze(1), expected.event_scores)


def test_losses_and_gradient_norms_agree_with_the_oracle(localizer, weights):
    visual, audio = fill.inputs()
    batch = Batch(visual, audio, labels(), clips=3, clips_with_event=3)
    terms = localizer.losses(localizer(visual, audio), batch)
    sum(terms.values()).backward()
    expected = reference.losses(oracle(weights), fill.labels())
    del expected["contrastive"]
    sum(expected.values()).backward()
    found = {TERMS[name]: term.item() for name, term in terms.items()}
    assert found == pytest.approx({key: term.item() for key, term in expected.items()}, abs=1e-10)
    names = checkpoints.authors_keys(localizer, Cmbs.authors_format(weights, {}))
    for ours, parameter in localizer.named_parameters():
        norm = weights[names[ours]].grad.norm()
        close(parameter.grad.norm(), norm, atol=1e-14, rtol=1e-8)


def test_there_are_no_parameters_that_nothing_trains(weights):
    losses = reference.losses(oracle(weights), fill.labels())
    del losses["contrastive"]
    gradients = torch.autograd.grad(sum(losses.values()), list(weights.values()), allow_unused=True)
    read = sum(gradient.numel() for gradient in gradients if gradient is not None)
    assert sum(p.numel() for p in Cmbs(SIZES).parameters()) == read


def test_its_published_checkpoint_has_150_weights_that_are_read(localizer, weights):
    assert (len(weights), len(localizer.state_dict())) == (220, 150)


def test_it_differs_from_cace_net_with_sound_as_the_guide_in_the_width_across_modalities():
    assert Cmbs(SIZES).network.visual_across.feed_forward[0].out_features == 1024


def test_small_widths_learn_the_same_way():
    small = Cmbs(Sizes(16, 24, 5, 4), width=32)
    out = small(torch.rand(1, 7, 2, 2, 16), torch.rand(1, 7, 24))
    assert (out.relevance.shape, out.class_logits.shape) == ((1, 7), (1, 1, 5))

"""The parts of the reconstructed methods, by closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cace.features.batches import Batch
from cace.localizers.ave_clip import AveClip, smoothed
from cace.localizers.css import Css, above_the_mean, correlation
from cace.localizers.dam import Dam
from cace.localizers.parts.protocol import Sizes
from cace.localizers.psp import Psp

SIZES = Sizes(visual_channels=512, audio_channels=128, categories=28, positions=49)
SMALL = Sizes(visual_channels=16, audio_channels=8, categories=3, positions=4)


@pytest.mark.parametrize(
    ("method", "parameters"), [(Dam, 1_346_637), (AveClip, 4_498_510), (Css, 2_177_694)]
)
def test_the_number_of_parameters(method, parameters):
    assert sum(p.numel() for p in method(SIZES).parameters()) == parameters


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_smoothing_is_the_rule_of_runs_at_every_threshold(events):
    expected = list(events)
    for t in range(1, len(expected) - 1):
        if expected[t - 1] == expected[t + 1] != expected[t]:
            expected[t] = expected[t - 1]
    heights = np.linspace(0.1, 0.9, len(events))  # distinct: a median has no ties to hide behind
    relevance = torch.tensor(
        [[h if event else -h for event, h in zip(events, heights, strict=True)]]
    )
    assert (smoothed(relevance)[0] > 0).tolist() == expected


def test_smoothing_acts_at_test_alone():
    localizer = AveClip(SMALL, width=16, smooth=True)
    localizer.windows.eval()
    localizer.refine.eval()
    rough = AveClip(SMALL, width=16)
    rough.load_state_dict(localizer.state_dict())
    rough.eval()
    features = torch.rand(8, 10, 2, 2, 16), torch.rand(8, 10, 8)
    raw = rough(*features).relevance
    torch.testing.assert_close(localizer(*features).relevance, raw)
    torch.testing.assert_close(localizer.eval()(*features).relevance, smoothed(raw))
    assert not torch.equal(smoothed(raw), raw)


def test_the_segments_of_a_window_do_not_see_the_others():
    block = AveClip(SMALL, width=16).windows[0].eval()
    segments = torch.rand(1, 7, 16)
    changed = segments.clone()
    changed[:, 4] += 1  # in the third window of two, of segments 4 and 5
    differs = (block(changed) - block(segments)).abs().amax(dim=-1)[0] > 1e-6
    assert differs.tolist() == [False, False, False, False, True, True, False]


def test_correlation_is_that_of_numpy():
    visual, audio = torch.rand(1, 4, 6).double(), torch.rand(1, 4, 6).double()
    expected = np.corrcoef(visual[0], audio[0])[:4, 4:]
    np.testing.assert_allclose(correlation(visual, audio)[0], expected, atol=1e-12)


def test_only_positive_correlations_above_the_mean_are_kept():
    similar = torch.tensor([[[0.6, 0.2, 0.1], [-0.6, -0.2, -0.1], [0.5, 0.5, -0.7]]])
    kept = [[[1, 0, 0], [0, 0, 0], [0.5, 0.5, 0]]]
    torch.testing.assert_close(above_the_mean(similar), torch.tensor(kept), atol=1e-6, rtol=0)


def test_equal_global_features_cost_nothing_in_the_contrast_of_css():
    localizer = Css(SMALL, width=16)
    out = localizer(torch.rand(2, 10, 2, 2, 16), torch.rand(2, 10, 8))
    batch = Batch(None, None, torch.full((2, 10), 3), clips=2, clips_with_event=0)

    def contrast(heard):
        extra = {"seen": torch.tensor([[1.0, 0.0]]), "heard": torch.tensor([heard])}
        return localizer.losses(out._replace(extra=extra), batch._replace(clips=1))["contrast"]

    assert contrast([3.0, 0.0]).item() == pytest.approx(0)
    # At right angles: cosine 0 and distance √2.
    assert contrast([0.0, 2.0]).item() == pytest.approx(0.1 * (1 + 0.1 * 2**0.5))


def test_dam_matches_with_the_event_of_the_labels_in_training():
    torch.manual_seed(0)
    localizer = Dam(SMALL, width=16).eval()
    visual, audio = torch.rand(1, 10, 2, 2, 16), torch.rand(1, 10, 8)
    out = localizer(visual, audio)
    event = torch.zeros(1, 10, dtype=torch.bool)
    event[0, 2:5] = True
    seen, heard = out.extra["seen"], out.extra["heard"]
    found = localizer._match(seen, heard, event)["seen"]
    # By hand: attention among the three segments alone, and their mean.
    inside, _ = localizer.within_audio(heard[:, 2:5], heard[:, 2:5], heard[:, 2:5])
    expected = (seen @ inside.mean(dim=1).unsqueeze(-1)).squeeze(-1) / 4
    torch.testing.assert_close(found, expected)


def test_dam_without_a_found_event_uses_all_segments():
    localizer = Dam(SMALL, width=16).eval()
    segments = torch.rand(2, 1, 10, 16)
    none, every = torch.zeros(1, 10).bool(), torch.ones(1, 10).bool()
    torch.testing.assert_close(
        localizer._match(*segments, none), localizer._match(*segments, every)
    )


def test_the_pair_loss_of_psp_is_zero_where_only_the_event_is_similar():
    localizer = Psp(SMALL, width=8)
    out = localizer(torch.rand(1, 4, 2, 2, 16), torch.rand(1, 4, 8))
    batch = Batch(None, None, torch.tensor([[3, 1, 1, 3]]), clips=1, clips_with_event=1)

    def pairs(similarity):
        extra = {**out.extra, "similarity": torch.tensor([similarity])}
        return localizer.losses(out._replace(extra=extra), batch)["pairs"].item()

    assert pairs([-0.3, 0.7, 0.7, 0.0]) == pytest.approx(0, abs=1e-6)
    # All alike: a quarter each instead of a half at two places and 0 at two.
    assert pairs([0.7] * 4) == pytest.approx(100 * 0.25**2)

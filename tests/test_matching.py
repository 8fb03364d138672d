"""Cross-modality localization: its models, its windows, and the rules that look at nothing."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cace.matching.content_free import content_free
from cace.matching.dam import Dam
from cace.matching.distance import Distance
from cace.matching.protocol import Channels
from cace.matching.windows import measures, one_hot, partial_events
from tests import fill

ARRAYS = np.load(fill.DATA / "avel_matching.npz")
NUMBERS = json.loads((fill.DATA / "avel_matching.json").read_text())
TARGET = torch.from_numpy(ARRAYS["target"]).bool()
SMALL = Channels(visual=6, audio=4)


# --- AVEL's distance model against the published numbers (tests/data/README.md)


@pytest.fixture(scope="module")
def golden():
    """The filled model and four clips, in float64."""
    model = Distance(Channels(512, 128)).double()
    shapes = fill.state_dict_shapes("avel_matching")
    model.load_state_dict({key: fill.fill_param(key, shape) for key, shape in shapes.items()})
    visual, audio = fill.inputs(batch=4)
    return model, 0.25 * visual.mean(dim=(2, 3)), 0.25 * audio


def test_distances_of_all_pairs_are_the_published_ones(golden):
    model, visual, audio = golden
    pairs = visual[:, :, None].expand(-1, -1, 10, -1), audio[:, None].expand(-1, 10, -1, -1)
    found = model.distances(*pairs).detach().numpy()
    np.testing.assert_allclose(found, ARRAYS["distance"], rtol=0, atol=1e-10)


def test_the_loss_and_gradient_norms_are_the_published_ones(golden):
    model, visual, audio = golden
    model.zero_grad()
    loss = model.loss(visual, audio, TARGET)
    expected = NUMBERS["losses"]["margin_2.0_training"]
    assert loss.item() == pytest.approx(expected, abs=1e-10)
    loss.backward()
    found = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    assert found == pytest.approx(NUMBERS["grad_norm_all"], rel=1e-8)


def test_a_batch_of_single_segments_has_the_loss_of_their_clips(golden):
    model, visual, audio = golden
    pairs = [x.flatten(0, 1).unsqueeze(1) for x in (visual, audio, TARGET)]
    assert model.loss(*pairs).item() == pytest.approx(
        NUMBERS["losses"]["margin_2.0_training"], abs=1e-10
    )


@pytest.mark.parametrize("direction", ["a2v", "v2a"])
@pytest.mark.parametrize("case", NUMBERS["evaluated"], ids=lambda case: f"video {case['video']}")
def test_scores_and_starts_of_windows_are_the_published_ones(golden, case, direction):
    model, visual, audio = golden
    clip = case["video"]
    pair = (audio, visual) if direction == "a2v" else (visual, audio)
    asked, searched = pair[0][clip][TARGET[clip]], pair[1][clip]
    fits = model.fits(asked, searched, "audio" if direction == "a2v" else "visual")
    found = -case["length"] * fits.detach().numpy()
    np.testing.assert_allclose(found, case[f"{direction}_scores"], rtol=0, atol=1e-10)
    assert fits.detach().numpy().argmax() == case[f"{direction}_start"]


def by_hand(weights, visual, audio, event):
    """Loss and gradients of AVEL's distance model, differentiated on paper."""
    hidden, back = {}, {}
    for name, x in (("visual", visual), ("audio", audio)):
        before = x @ weights[f"{name}.0.weight"].T + weights[f"{name}.0.bias"]
        slope = np.where(before > 0, 1.0, 0.3)
        out = (before * slope) @ weights[f"{name}.2.weight"].T + weights[f"{name}.2.bias"]
        hidden[name] = x, before * slope, slope, out
    difference = hidden["visual"][3] - hidden["audio"][3]
    distance = np.sqrt((difference**2).sum(axis=1))
    apart = np.maximum(2 - distance, 0)
    loss = np.where(event, distance**2, apart**2).mean()
    by_distance = np.where(event, 2 * distance, -2 * apart) / len(event)
    by_out = (by_distance / distance)[:, None] * difference
    for name, sign in (("visual", 1), ("audio", -1)):
        x, active, slope, _ = hidden[name]
        by_active = sign * by_out @ weights[f"{name}.2.weight"] * slope
        back[f"{name}.0.weight"], back[f"{name}.0.bias"] = by_active.T @ x, by_active.sum(axis=0)
        back[f"{name}.2.weight"] = sign * by_out.T @ active
        back[f"{name}.2.bias"] = sign * by_out.sum(axis=0)
    return loss, back


def test_five_steps_of_adam_agree_with_those_worked_out_by_hand(golden):
    model, visual, audio = golden
    model = Distance(model.channels).double()
    shapes = fill.state_dict_shapes("avel_matching")
    model.load_state_dict({key: fill.fill_param(key, shape) for key, shape in shapes.items()})
    weights = {key: tensor.numpy().copy() for key, tensor in model.state_dict().items()}
    inputs = [x.flatten(0, 1).unsqueeze(1) for x in (visual, audio, TARGET)]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    first = dict.fromkeys(weights, 0.0)
    second = dict.fromkeys(weights, 0.0)
    for step in range(1, 6):
        optimizer.zero_grad()
        model.loss(*inputs).backward()
        optimizer.step()
        _, gradients = by_hand(weights, *(x.squeeze(1).numpy() for x in inputs))
        for key, gradient in gradients.items():
            first[key] = 0.9 * first[key] + 0.1 * gradient
            second[key] = 0.999 * second[key] + 0.001 * gradient**2
            mean, square = first[key] / (1 - 0.9**step), second[key] / (1 - 0.999**step)
            weights[key] = weights[key] - 1e-3 * mean / (np.sqrt(square) + 1e-8)
    for key, tensor in model.state_dict().items():
        np.testing.assert_allclose(tensor.numpy(), weights[key], rtol=0, atol=1e-9)


def test_a_pair_without_an_event_costs_nothing_beyond_the_margin():
    model = Distance(SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.visual[2].bias[0] = 2.5
    pair = torch.rand(1, 1, 6), torch.rand(1, 1, 4)
    assert model.loss(*pair, torch.tensor([[False]])).item() == 0
    assert model.loss(*pair, torch.tensor([[True]])).item() == pytest.approx(2.5**2)


def test_equal_features_have_finite_gradients():
    model = Distance(SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.loss(torch.rand(2, 3, 6), torch.rand(2, 3, 4), torch.ones(2, 3).bool()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# --- DAM


def test_dam_scores_what_its_equations_say():
    """Attention, mean and products, written out for a window of three seconds."""
    torch.manual_seed(0)
    model = Dam(SMALL).double()
    sound, picture = torch.rand(3, 4).double(), torch.rand(8, 6).double()
    found = model.fits(sound, picture, "audio").detach().numpy()
    heard, seen = (f(x).detach().numpy() for f, x in (
        (model.audio_input, sound), (model.visual_input, picture)
    ))  # fmt: skip
    within = {key: value.detach().numpy() for key, value in model.within_audio.state_dict().items()}
    query, key, value = (
        heard @ w.T + b
        for w, b in zip(
            np.split(within["in_proj_weight"], 3), np.split(within["in_proj_bias"], 3), strict=True
        )
    )
    shares = np.exp(query @ key.T / 16)
    mixed = shares / shares.sum(axis=1, keepdims=True) @ value
    event = (mixed @ within["out_proj.weight"].T + within["out_proj.bias"]).mean(axis=0)
    probability = 1 / (1 + np.exp(-seen @ event / 16))
    expected = [probability[n : n + 3].mean() for n in range(6)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_dams_loss_is_the_cross_entropy_of_both_directions():
    """Of a clip with one event second, which asks alone: attention to itself changes nothing."""
    torch.manual_seed(0)
    model = Dam(SMALL).double()
    visual, audio = torch.rand(1, 5, 6).double(), torch.rand(1, 5, 4).double()
    event = torch.tensor([[False, True, False, False, False]])
    # The fit of a window of one second is its probability.
    of_picture = model.fits(audio[0, 1:2], visual[0], "audio").detach().numpy()
    of_sound = model.fits(visual[0, 1:2], audio[0], "visual").detach().numpy()
    true = event[0].numpy()
    terms = [-np.log(np.where(true, p, 1 - p)).mean() for p in (of_picture, of_sound)]
    assert model.loss(visual, audio, event).item() == pytest.approx(sum(terms) / 2, abs=1e-12)


@pytest.mark.parametrize("matcher", [Distance, Dam])
def test_every_parameter_has_a_gradient(matcher):
    torch.manual_seed(0)
    model = matcher(SMALL)
    event = torch.tensor([[True, True, False], [False, False, False]])
    model.loss(torch.rand(2, 3, 6), torch.rand(2, 3, 4), event).backward()
    lacking = [name for name, p in model.named_parameters() if not p.grad.isfinite().all()]
    silent = [name for name, p in model.named_parameters() if not p.grad.any()]
    assert lacking == []
    # A bias of keys adds the same to all of a row's products: softmax removes it.
    assert all("in_proj" in name for name in silent)


@pytest.mark.parametrize("matcher", [Distance, Dam])
@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_a_window_as_long_as_what_is_searched_leaves_one_choice(matcher, modality):
    sizes = (4, 6) if modality == "audio" else (6, 4)
    fits = matcher(SMALL).fits(torch.rand(3, sizes[0]), torch.rand(3, sizes[1]), modality)
    assert fits.shape == (1,)


# --- windows and their scores


def events(*spans, segments=6):
    """One row for each (start, end)."""
    at = np.arange(segments)
    return np.array([(start <= at) & (at < end) for start, end in spans])


def clips(*spans, segments=6):
    event = events(*spans, segments=segments)
    return partial_events(event, np.arange(len(event)))


def test_clips_that_cannot_be_scored_are_left_out_and_counted():
    event = events((0, 0), (0, 6), (2, 5), (0, 3), (1, 2))
    event[3, 5] = True  # a second run after a gap
    found = partial_events(event, np.array([4, 3, 2, 1, 0]))
    assert found.rows.tolist() == [4, 2]
    assert (found.start.tolist(), found.length.tolist()) == ([1, 2], [1, 3])
    assert found.skipped == {
        "no event": 1, "event as long as the clip": 1, "event with a gap": 1,
    }  # fmt: skip


def test_measures_of_three_clips_counted_by_hand():
    # Events 0-2, 1-5, 4-6 of six seconds; windows chosen: right, one late, two early.
    scored = clips((0, 2), (1, 5), (4, 6))
    chosen = one_hot(np.array([0, 2, 2]), scored)[None].astype(float)
    found = measures(chosen, scored)
    assert found["exact"]["mean"] == pytest.approx(1 / 3)
    assert (found["ends_early"]["mean"], found["ends_early"]["clips"]) == (1 / 2, 2)
    assert (found["inside"]["mean"], found["inside"]["clips"]) == (0, 1)
    assert found["overlap"]["mean"] == pytest.approx((1 + 3 / 5 + 0) / 3)


def test_seeds_are_averaged_and_their_deviation_is_that_of_a_sample():
    scored = clips((0, 2), (1, 5), (4, 6))
    right, wrong = one_hot(scored.start, scored), one_hot((scored.start + 1) % 6, scored)
    found = measures(np.stack([right, wrong]).astype(float), scored)["exact"]
    assert (found["mean"], found["std"]) == pytest.approx((0.5, 0.5**0.5))
    assert (found["low"], found["high"]) == (0.5, 0.5)  # every clip has the same mean


def test_without_clips_a_measure_is_none():
    scored = clips((4, 6), (3, 6))
    found = measures(one_hot(scored.start, scored)[None].astype(float), scored)
    assert found["ends_early"] == {"mean": None, "std": None, "low": None, "high": None, "clips": 0}


@given(st.data())
def test_overlap_is_that_of_the_sets_of_seconds(data):
    segments = data.draw(st.integers(2, 10))
    length = data.draw(st.integers(1, segments - 1))
    start, chosen = (data.draw(st.integers(0, segments - length)) for _ in range(2))
    scored = clips((start, start + length), segments=segments)
    found = measures(one_hot(np.array([chosen]), scored)[None].astype(float), scored)
    true, ours = (set(range(first, first + length)) for first in (start, chosen))
    assert found["overlap"]["mean"] == pytest.approx(len(true & ours) / len(true | ours))


# --- rules that look at nothing


@pytest.fixture
def rules():
    train = clips((0, 2), (3, 5), (3, 5), (1, 4), (0, 3), (2, 6))
    # Lengths 2, 2, 3, 4; 5 was never in train.
    test = clips((4, 6), (3, 5), (0, 3), (2, 6), (1, 6))
    return content_free(train, test), test


def test_the_rules_choose_what_their_names_say(rules):
    starts = {name: chosen.argmax(axis=1).tolist() for name, chosen in rules[0].items()}
    assert starts["always the first second"] == [0, 0, 0, 0, 0]
    assert starts["always the last window"] == [4, 4, 3, 2, 1]
    # Of two seconds, most start at 3. Of three, 0 and 1 are equal: the first. Of five, none: 0.
    assert starts["most frequent start in train"] == [3, 3, 0, 2, 0]


def test_the_rules_score_what_a_count_by_hand_gives(rules):
    chosen, test = rules
    exact = {name: measures(p[None], test)["exact"]["mean"] for name, p in chosen.items()}
    assert exact == pytest.approx({
        "random start": (1 / 5 + 1 / 5 + 1 / 4 + 1 / 3 + 1 / 2) / 5,
        "always the first second": 1 / 5,
        "always the last window": 3 / 5,
        "most frequent start in train": 3 / 5,
    })  # fmt: skip


def test_the_last_window_is_never_right_where_the_event_ends_before_the_clip(rules):
    chosen, test = rules
    found = measures(chosen["always the last window"][None], test)["ends_early"]
    assert (found["mean"], found["clips"]) == (0, 2)


def test_probabilities_of_starts_add_up_to_one(rules):
    for chosen in rules[0].values():
        np.testing.assert_allclose(chosen.sum(axis=1), 1)

"""Weak supervision: what training reads, and what its loss asks for.

The common form is held to numbers computed from the published outputs by other code; the released
forms to AVEL's published numbers and to a plain oracle of CMRAN (tests/data/README.md).
"""

import json

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cace.evaluation.accuracy import segment_predictions
from cace.evaluation.predict import load_for
from cace.features.batches import Batch, Split, TagsOnly
from cace.features.store import FeatureStore
from cace.features.tags import TaggedSplit
from cace.localizers import localizer_class
from cace.localizers.parts import checkpoints
from cace.localizers.parts.losses import label_loss, released_tag_loss, tag_terms, two_heads
from cace.localizers.parts.protocol import Localization, Sizes
from cace.settings import LOCALIZERS, WeakParams, changed, load_params, method_params
from cace.system.errors import UserError
from tests import fill, reference_others
from tests.project import ROOT
from tests.stores import annotations, write_feature_store
from tests.test_cace_net import close
from tests.trained import CPU, train, untrained

COMMON = WeakParams(form="common", mismatch=1.0, top=0.7)
RELEASED = WeakParams(form="released", mismatch=1.0, top=0.7)
TWO_MODALITIES = [name for name in LOCALIZERS if method_params(name).weak_forms]
TAGS = torch.tensor([23, 0, 27, 28])  # of the four golden clips


def batch_of(tags, visual=None, audio=None, top=7, mismatched=False, pairs=0):
    tags = torch.as_tensor(tags)
    events = int((tags != 28).sum())
    return Batch(
        torch.zeros(1) if visual is None else visual,
        torch.zeros(1) if audio is None else audio,
        tags.unsqueeze(1).expand(-1, 10),
        len(tags),
        events,
        TagsOnly(top, len(tags) - events + pairs, mismatched),
    )


# The common form, of all methods.

GOLDEN = json.loads((fill.DATA / "common_weak.json").read_text())
CASES = {
    "clips 0, 1, 2 tagged 23, 0, 27": [23, 0, 27],
    "clips 0, 2 tagged 23, 27; clip 1 is a background clip": [23, 28, 27],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("system", ["cmran", "psp", "avel"])
def test_the_terms_on_published_outputs_are_those_of_other_code(system, case):
    batch, expected = batch_of(CASES[case]), GOLDEN[case][system]
    if system == "cmran":
        arrays = np.load(fill.DATA / "cmran.npz")
        relevance = torch.from_numpy(arrays["is_event_scores"]).squeeze(-1).T
        category = torch.from_numpy(arrays["event_scores"]).unsqueeze(1)
        terms = two_heads(Localization(relevance, category, None, {}), batch, 28)
        found = sum(terms.values())
    else:
        file, key = {"psp": ("psp", "out"), "avel": ("avel_weak", "segment_scores")}[system]
        found = label_loss(torch.from_numpy(np.load(fill.DATA / f"{file}.npz")[key])[:3], batch)
    assert found.item() == pytest.approx(expected["tag"] + expected["background"], abs=1e-10)


def test_a_clip_that_shows_its_tag_in_k_segments_costs_nothing():
    sure, never = torch.zeros(1, 10).double(), torch.full((1, 10), -50.0).double()
    event = torch.cat([sure[:, :7], never[:, :3]], dim=1)
    loss = tag_terms(event, never, batch_of([5]), 28)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    fewer = tag_terms(event.where(torch.arange(10) > 0, never), never, batch_of([5]), 28)
    assert fewer.item() == pytest.approx(-np.log(6 / 7), abs=1e-6)


def test_of_a_clip_without_an_event_every_segment_counts():
    background = torch.log(torch.linspace(0.1, 1.0, 10))[None]
    loss = tag_terms(torch.full((1, 10), -9.0), background, batch_of([28]), 28)
    assert loss.item() == pytest.approx(-background.mean().item())


@settings(max_examples=20)
@given(st.integers(1, 4), st.floats(0, 1))
def test_parts_of_a_batch_add_up_to_it(part, mismatch):
    torch.manual_seed(0)
    scores = torch.randn(6, 10, 29).double()
    tags = torch.tensor([3, 28, 5, 3, 28, 0])
    pairs = round(mismatch * 6)
    whole = label_loss(scores, batch_of(tags, pairs=pairs))
    complete = batch_of(tags, pairs=pairs)
    parts = [
        label_loss(some, complete._replace(labels=labels))
        for some, labels in zip(scores.split(part), complete.labels.split(part), strict=True)
    ]
    close(sum(parts), whole)


def small(name, categories=28):
    torch.manual_seed(0)
    localizer = checkpoints.build(name, Sizes(24, 12, categories, 6), width=16).double().eval()
    localizer.start_epoch(1.0)
    visual, audio = torch.rand(3, 10, 2, 3, 24).double(), torch.rand(3, 10, 12).double()
    return localizer, visual, audio


@pytest.mark.parametrize("name", TWO_MODALITIES)
def test_a_step_on_a_clip_without_an_event_makes_events_less_likely(name):
    localizer, visual, audio = small(name)
    batch = batch_of([28, 28, 28], visual, audio)
    before = localizer(visual, audio).relevance.mean().item()
    optimizer = torch.optim.SGD(localizer.parameters(), lr=0.01)
    sum(localizer.losses(localizer(visual, audio), batch).values()).backward()
    optimizer.step()
    assert localizer(visual, audio).relevance.mean().item() < before


@pytest.mark.parametrize("name", TWO_MODALITIES)
def test_of_mismatched_pairs_only_background_is_learned(name):
    localizer, visual, audio = small(name)
    batch = batch_of([28, 28, 28], visual, audio, mismatched=True)._replace(
        clips=6, clips_with_event=6, tags_only=TagsOnly(7, 3, mismatched=True)
    )
    out = localizer(visual, audio)
    terms = localizer.losses(out, batch)
    kinds = {"category", "class_activation", "contrast"} & terms.keys()
    assert all(terms[kind].item() == 0 for kind in kinds)
    assert terms.keys() - kinds
    assert all(terms[kind].item() > 0 for kind in terms.keys() - kinds)


# What training reads.


@pytest.fixture
def store(tmp_path):
    return FeatureStore(write_feature_store(tmp_path / "features.h5"))


def scrambled(store, path):
    """The same store, the segments of each train clip's labels in another order."""
    with h5py.File(store.path) as old, h5py.File(path, "w") as new:
        for name in old:
            old.copy(name, new)
        new.attrs.update(old.attrs)
        labels, rng = new["labels"][:], np.random.default_rng(1)
        for row in store.rows("train"):
            labels[row] = rng.permutation(labels[row])
        assert (labels != new["labels"][:]).any()
        new["labels"][:] = labels
    return FeatureStore(path)


@pytest.mark.parametrize("name", TWO_MODALITIES)
def test_scrambled_segment_labels_of_train_give_the_same_model(store, tmp_path, name):
    of_method = {"width": 16} | ({"bece_enabled": False} if name == "cace_net" else {})
    for where, folder in (
        (store, tmp_path / "a"),
        (scrambled(store, tmp_path / "scrambled.h5"), tmp_path / "b"),
    ):
        train(where, folder / "seed-0", name=name, settings=of_method, weak=COMMON, epochs=1)
    one, other = (
        checkpoints.read(tmp_path / folder / "seed-0/last.pt").localizer.state_dict()
        for folder in ("a", "b")
    )
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_full_supervision_does_read_them(store, tmp_path):
    for where, folder in (
        (store, tmp_path / "a"),
        (scrambled(store, tmp_path / "scrambled.h5"), tmp_path / "b"),
    ):
        train(where, folder / "seed-0", epochs=1)
    one, other = (
        checkpoints.read(tmp_path / folder / "seed-0/last.pt").localizer.state_dict()
        for folder in ("a", "b")
    )
    assert any(not torch.equal(value, other[key]) for key, value in one.items())


def parts_of(split, size=5, at_once=2):
    return [list(parts) for parts in split.shuffled(size, at_once)]


def test_pairs_join_a_clip_with_the_sound_of_one_of_another_tag(store):
    split = TaggedSplit(store, CPU, top=0.7, mismatch=1.0)
    features = Split(store, "train", CPU)
    rows = store.rows("train")

    def place_of(found, stored):
        return next(k for k in range(len(rows)) if np.array_equal(found, stored[k]))

    for parts in parts_of(split):
        clips = [part for part in parts if not part.tags_only.mismatched]
        pairs = [part for part in parts if part.tags_only.mismatched]
        assert sum(len(part.labels) for part in pairs) == clips[0].clips
        for part in pairs:
            assert (part.labels == store.background).all()
            for seen, heard in zip(part.visual.numpy(), part.audio.numpy(), strict=True):
                picture = place_of(seen, store.visual[rows].astype("f4"))
                sound = place_of(heard, store.audio[rows].astype("f4"))
                assert store.tags[rows[picture]] != store.tags[rows[sound]]
    assert len(features) == len(split)


@settings(max_examples=10)
@given(st.floats(0, 1), st.integers(1, 9))
def test_every_clip_comes_once_and_so_many_pairs(tmp_path_factory, mismatch, size):
    folder = tmp_path_factory.mktemp("store")
    data = annotations()
    rows = [row._replace(start=0, end=0) if k == 0 else row for k, row in enumerate(data.rows)]
    store = FeatureStore(write_feature_store(folder / "f.h5", data._replace(rows=tuple(rows))))
    split = TaggedSplit(store, CPU, top=0.7, mismatch=mismatch)
    clips = 0
    for parts in parts_of(split, size):
        here = [part for part in parts if not part.tags_only.mismatched]
        pairs = [part for part in parts if part.tags_only.mismatched]
        count = sum(len(part.labels) for part in here)
        clips += count
        assert {part.clips for part in parts} == {count}
        assert sum(len(part.labels) for part in pairs) == round(mismatch * count)
        without = sum(int((part.labels[:, 0] == store.background).sum()) for part in parts)
        assert {part.tags_only.background for part in parts} == {without}
    assert clips == len(split)


def test_clips_of_the_split_background_are_trained_on_and_tell_no_event(tmp_path):
    data = annotations()
    path = write_feature_store(tmp_path / "f.h5", data)
    with h5py.File(path, "r+") as file:
        splits = ["background" if k == 0 else row.split for k, row in enumerate(data.rows)]
        del file["split"]
        file["split"] = splits
        file["tags"][0] = len(data.categories)
    store = FeatureStore(path)
    assert 0 not in Split(store, "train", CPU).rows
    weak = TaggedSplit(store, CPU, top=0.7, mismatch=0.0)
    assert weak.tags[list(weak.rows).index(0)] == store.background


@pytest.mark.parametrize(("top", "k"), [(0.7, 7), (0.0, 1), (1.0, 10), (0.71, 8)])
def test_the_share_of_an_event_is_rounded_up_to_segments(store, top, k):
    assert TaggedSplit(store, CPU, top=top, mismatch=1.0).top == k


def test_without_background_of_any_kind_training_is_refused(store):
    with pytest.raises(UserError, match=r"nothing would teach what background is"):
        TaggedSplit(store, CPU, top=0.7, mismatch=0.0)


def test_pairs_of_a_single_tag_are_refused(tmp_path):
    data = annotations()
    rows = tuple(row._replace(category=0) for row in data.rows)
    store = FeatureStore(write_feature_store(tmp_path / "f.h5", data._replace(rows=rows)))
    with pytest.raises(UserError, match="all clips of train have the same tag"):
        TaggedSplit(store, CPU, top=0.7, mismatch=1.0)


def test_a_checkpoint_says_how_it_was_supervised(store, tmp_path):
    of_method = {"width": 16, "bece_enabled": False}
    train(store, tmp_path / "weak", settings=of_method, weak=COMMON, epochs=1)
    train(store, tmp_path / "full", settings=of_method, epochs=1)
    found = [checkpoints.read(tmp_path / f"{kind}/last.pt").about for kind in ("weak", "full")]
    assert [about["supervision"] for about in found] == ["weak", "full"]
    test = Split(store, "test", CPU)
    for kind, other in (("weak", "full"), ("full", "weak")):
        load_for(test, tmp_path / kind / "best.pt", supervision=kind)
        with pytest.raises(UserError, match=f"trained with {kind} supervision, .* is {other}; run"):
            load_for(test, tmp_path / kind / "best.pt", supervision=other)


# The released forms.


def avel():
    shapes = fill.state_dict_shapes("avel")
    weights = {key: fill.fill_param(key, shape) for key, shape in shapes.items()}
    return checkpoints.from_authors("filled", weights, "avel", weak_form="released"), weights


def test_the_released_form_of_avel_gives_the_published_numbers():
    localizer, weights = avel()
    arrays = np.load(fill.DATA / "avel_weak.npz")
    numbers = json.loads((fill.DATA / "avel_weak.json").read_text())
    visual, audio = fill.inputs(batch=4)
    out = localizer(visual, audio)
    close(out.extra["scores"], torch.from_numpy(arrays["segment_scores"]))
    loss = localizer.losses(out, batch_of(TAGS, visual, audio))["tag"]
    assert loss.item() == pytest.approx(numbers["losses"]["total"], abs=1e-10)
    loss.backward()
    names = checkpoints.authors_keys(
        localizer, localizer_class("avel").authors_format(weights, {"weak_form": "released"})
    )
    found = {names[name]: p.grad.norm().item() for name, p in localizer.named_parameters()}
    assert found == pytest.approx(numbers["grad_norm_all"], rel=1e-8, abs=1e-13)
    decided = segment_predictions(
        out.relevance.detach().sigmoid().numpy(),
        out.class_logits.detach().argmax(dim=-1).numpy(),
        0.5,
        background=28,
    )
    assert np.array_equal(decided, arrays["pred"])


@pytest.fixture(scope="module")
def weak_cmran():
    shapes = fill.state_dict_shapes("cmran_weak")
    weights = {key: fill.fill_param(key, shape) for key, shape in shapes.items()}
    return checkpoints.from_authors("filled", weights, "cmran", weak_form="released"), weights


def test_the_released_form_of_cmran_agrees_with_the_oracle(weak_cmran):
    localizer, weights = weak_cmran
    visual, audio = fill.inputs(batch=4)
    expected = reference_others.cmran_weak(weights, visual, audio)
    out = localizer(visual, audio)
    close(out.extra["event"], expected["is_event_scores"])
    close(out.extra["scores"], expected["event_scores"])
    tags = torch.nn.functional.one_hot(TAGS, 29).double()
    loss = localizer.losses(out, batch_of(TAGS, visual, audio))["tag"]
    close(loss, reference_others.soft_margin(expected["video_scores"], tags))


def test_the_released_rule_of_cmran_says_background_of_a_segment_and_of_a_clip(weak_cmran):
    localizer, weights = weak_cmran
    visual, audio = fill.inputs(batch=4)
    expected = reference_others.cmran_weak(weights, visual, audio)
    best = expected["event_scores"].argmax(dim=-1)[:, None]
    rule = torch.where(expected["is_event_scores"].sigmoid() > 0.5, best, 28)
    out = localizer(visual, audio)
    category = out.class_logits.argmax(dim=-1).expand_as(out.relevance)
    found = torch.where(out.relevance.sigmoid() > 0.5, category, 28)
    assert torch.equal(found, rule)
    one = Localization(torch.tensor([[3.0, -1.0]]), torch.tensor([[[1.0, 2.0, 4.0]]]), None, {})
    from cace.localizers.cmran import _with_clip_background

    close(_with_clip_background(one).relevance, torch.tensor([[-2.0, -2.0]]))


def test_a_released_form_learns_without_pairs(store, tmp_path):
    with pytest.raises(UserError, match="nothing would teach what background is"):
        train(
            store, tmp_path / "seed-0", name="avel", weak=RELEASED,
            settings={"width": 16, "weak_form": "released"},
        )  # fmt: skip


def test_the_soft_margin_of_a_released_form_is_a_mean_over_clips():
    torch.manual_seed(0)
    scores = torch.randn(4, 29).double()
    whole = released_tag_loss(scores, batch_of(TAGS))
    batch = batch_of(TAGS)
    parts = [
        released_tag_loss(some, batch._replace(labels=labels))
        for some, labels in zip(scores.split(3), batch.labels.split(3), strict=True)
    ]
    close(sum(parts), whole)


def test_full_supervision_refuses_the_released_network(weak_cmran):
    localizer, _ = weak_cmran
    visual, audio = fill.inputs(batch=4)
    labelled = batch_of(TAGS, visual, audio)._replace(tags_only=None)
    with pytest.raises(UserError, match="set supervision: weak"):
        localizer.losses(localizer(visual, audio), labelled)


# The settings.


def weak(**changes):
    params = load_params(ROOT)
    return changed(params, {"supervision": "weak", **changes}, where="params.yaml")


@pytest.mark.parametrize("name", ["audio", "visual"])
def test_a_method_of_one_modality_is_refused(name):
    with pytest.raises(
        UserError, match=f"expected full for localizer {name}: it reads one modality"
    ):
        weak(localizer={"name": name})


@pytest.mark.parametrize("name", sorted(set(TWO_MODALITIES) - {"avel", "cmran"}))
def test_a_released_form_is_refused_for_the_others(name):
    with pytest.raises(UserError, match="form released is offered for cmran and avel"):
        weak(localizer={"name": name}, weak={"form": "released"})


def test_the_contrast_of_segments_is_off():
    assert weak().method["bece_enabled"] is False


def test_another_word_is_refused_with_both():
    with pytest.raises(UserError, match=r"supervision: expected 'full' or 'weak', got 'half'"):
        changed(load_params(ROOT), {"supervision": "half"}, where="params.yaml")


@pytest.mark.parametrize("name", TWO_MODALITIES)
def test_what_a_weak_run_builds_is_the_supervised_network(store, name):
    of_method = {"width": 16}
    weakly = weak(localizer={"name": name}, **{name: of_method}, train={"narrower": 1}).method
    full = untrained(store, name=name, settings=of_method).state_dict()
    found = untrained(store, name=name, settings=weakly).state_dict()
    without = {key for key in full if not key.startswith("enhance.")}
    assert found.keys() == without

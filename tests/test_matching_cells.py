"""Which clips train and score a matcher, its training, its cell, its checkpoint and its table."""

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from cace import paths
from cace.data.annotations import Annotations, Row
from cace.data.sources.released_labels import MATCHING_ORDER
from cace.features.store import FeatureStore
from cace.matching import checkpoints, run
from cace.matching.clips import Clips, read_clips
from cace.matching.distance import Distance
from cace.matching.protocol import Channels, Matcher
from cace.matching.split import splits_of
from cace.matching.training import Schedule, choose, train
from cace.matching.windows import partial_events
from cace.system.errors import UserError
from matching.table.rows import columns, rows, scored
from matching.train import schedule_of
from tests.project import ROOT
from tests.stores import CATEGORIES, write_feature_store

CPU = torch.device("cpu")


def orders(media, **rows_of):
    """The released order files of matching."""
    media.mkdir(exist_ok=True)
    for split, places in rows_of.items():
        with h5py.File(media / f"{split}_order_match.h5", "w") as file:
            file["order"] = np.array(places)
    return media


# --- the split; the rows of `store` are train 0-11, val 12-17, test 18-23


def test_other_sources_have_the_split_of_the_store(store, tmp_path):
    for source in ("mini", "folder", "ave"):
        assert splits_of(store, source, tmp_path).tolist() == store.splits.tolist()


def test_released_features_have_the_split_of_the_order_files(store, tmp_path):
    media = orders(tmp_path, test=range(6), val=range(6, 12), train=range(12, 24))
    expected = ["test"] * 6 + ["val"] * 6 + ["train"] * 12
    assert splits_of(store, "released", media).tolist() == expected


def test_clips_without_an_event_that_only_weak_supervision_uses_are_in_no_split(
    store, tmp_path, monkeypatch
):
    monkeypatch.setattr(store, "splits", np.array(["background"] * 2 + [*store.splits[2:]]))
    media = orders(tmp_path, test=range(2, 6), val=range(6, 12), train=range(12, 24))
    assert splits_of(store, "released", media).tolist()[:3] == ["background"] * 2 + ["test"]


def test_order_files_that_are_missing_are_named(store, tmp_path):
    media = orders(tmp_path, train=range(12))
    with pytest.raises(UserError, match=r"needs val_order_match.h5, test_order_match.h5; get them"):
        splits_of(store, "released", media)


def test_the_order_files_of_the_segment_task_are_refused(store, tmp_path):
    media = orders(tmp_path, train=range(12), val=range(12, 18), test=range(18, 24))
    with pytest.raises(UserError, match="contain the same split, so one of them is of the other"):
        splits_of(store, "released", media)


def test_a_mixture_of_both_splits_is_refused_and_the_leak_is_named(store, tmp_path):
    # Test of the matching split; train of the segment task's, which contains five of its rows.
    media = orders(tmp_path, test=[0, 1, 2, 3, 4, 20], val=range(12, 18), train=range(12))
    with pytest.raises(UserError) as caught:
        splits_of(store, "released", media)
    assert "5 of the 6 rows of test_order_match.h5 are in train_order_match.h5 too" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([0, 0, 1], "expected rows from 0 to 23, each once"),
        ([0, 24], "expected rows from 0 to 23, each once"),
        ([0.5], r"expected row numbers \[n\], got float64 \[1\]"),
        ([18, 19], r"rows \[20, 21, 22, 23\] are in no \*_order_match.h5"),
    ],
    ids=["twice", "outside", "not whole", "not all"],
)
def test_damaged_order_files_are_refused(store, tmp_path, wrong, message):
    media = orders(tmp_path, train=range(12), val=range(12, 18), test=wrong)
    with pytest.raises(UserError, match=message):
        splits_of(store, "released", media)


def test_an_order_file_that_is_no_hdf5_is_refused(store, tmp_path):
    media = orders(tmp_path, train=range(12), val=range(12, 18))
    (media / MATCHING_ORDER["test"]).write_text("<html>quota exceeded</html>")
    with pytest.raises(UserError, match="test_order_match.h5: not an HDF5 file"):
        splits_of(store, "released", media)


# --- training


@pytest.fixture(scope="module")
def seen_and_heard(tmp_path_factory):
    """A store of 200 clips: only in events do picture and sound show that something is there."""
    rng, found = np.random.default_rng(0), []
    for k in range(200):
        start = int(rng.integers(0, 8))
        end = min(10, start + int(rng.integers(2, 5)))
        found.append(
            Row(f"clip{k:03}", k % 3, start, end, ("train", "train", "test", "val")[k % 4])
        )
    path = tmp_path_factory.mktemp("matching") / "features.h5"
    return FeatureStore(write_feature_store(path, Annotations(CATEGORIES, tuple(found))))


@pytest.mark.parametrize(("name", "batch_size"), [("distance", 32), ("dam", 8)])
def test_a_matcher_learns_to_find_events_that_can_be_seen_and_heard(
    seen_and_heard, name, batch_size
):
    store, event = seen_and_heard, seen_and_heard.labels != 3
    torch.manual_seed(0)
    clips = read_clips(store, store.rows("train"), CPU, "train")
    matcher = checkpoints.MATCHERS[name](clips.channels)
    train(matcher, clips, Schedule(epochs=15, batch_size=batch_size, learning_rate=2e-3), "train")
    test = partial_events(event, store.rows("test"))
    read = read_clips(store, test.rows, CPU, "test")
    right = [choose(matcher, read, test, m) == test.start for m in ("audio", "visual")]
    assert np.mean(right, axis=1).min() > 0.8  # of about eight windows


class Same(Matcher):
    """Fits best where both modalities have equal features."""

    def fits(self, given, searched, modality):
        return -(searched.unfold(0, len(given), 1).mT - given).abs().mean(dim=(1, 2))


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_the_segments_of_the_event_are_given_and_the_other_modality_is_searched(modality):
    found = np.array([[0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1], [1, 0, 0, 0, 0, 0]]).astype(bool)
    features = torch.rand(3, 6, 4, generator=torch.Generator().manual_seed(0))
    late = features.roll(1, dims=1)  # each sound comes a second after its picture
    event = torch.from_numpy(found)
    test = partial_events(found, np.arange(3))
    read = Clips(visual=features, audio=late, event=event)
    starts = choose(Same(read.channels), read, test, modality)
    shift = -1 if modality == "audio" else 1
    inside = [0, 1] if modality == "audio" else [0, 2]  # the others have no such window
    assert starts[inside].tolist() == (test.start + shift)[inside].tolist()


def test_of_windows_that_fit_alike_the_first_is_chosen(store):
    clips = read_clips(store, store.rows("test"), CPU, "test")
    matcher = Distance(clips.channels)
    with torch.no_grad():
        for parameter in matcher.parameters():
            parameter.zero_()
    test = partial_events(store.labels != store.background, store.rows("test"))
    read = read_clips(store, test.rows, CPU, "test")
    assert choose(matcher, read, test, "audio").tolist() == [0] * len(test.rows)


def test_matchers_read_means_over_the_grid(store):
    clips = read_clips(store, np.array([3, 1]), CPU, "test")
    expected = store.visual[[3, 1]].astype(float).mean(axis=(2, 3))
    np.testing.assert_allclose(clips.visual, expected, rtol=1e-6)
    assert torch.equal(clips.event, torch.from_numpy(store.labels[[3, 1]] != 3))


def test_a_loss_that_is_no_number_is_refused(store):
    clips = read_clips(store, store.rows("train"), CPU, "train")
    clips.audio[0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="the loss is nan; lower the learning rate"):
        train(
            Distance(clips.channels), clips, Schedule(epochs=1, batch_size=8, learning_rate=1), "x"
        )


# --- a cell


@pytest.fixture
def top(tmp_path, monkeypatch):
    """An empty project, with the code that a cell's work depends on."""
    shutil.copytree(ROOT / "matching", tmp_path / "matching")
    (tmp_path / "cace").symlink_to(ROOT / "cace")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SHORT = Schedule(epochs=1, batch_size=8, learning_rate=1e-3)


def cell(store, name="distance", seeds=(0, 1), source="mini", media=Path("media")):
    run.run_cell(name, store.path, media, source, SHORT, seeds)
    folder = paths.MATCHERS / name
    return folder, json.loads((folder / "scores.json").read_text())


def test_a_cell_counts_the_clips_that_it_scores_and_skips(store, top):
    _, scores = cell(store)
    lengths = (store.labels[store.rows("test")] != store.background).sum(axis=1)
    assert scores["clips"] == ((lengths > 0) & (lengths < 10)).sum()
    assert scores["skipped"]["event as long as the clip"] == (lengths == 10).sum()


def test_the_scores_of_a_cell_follow_from_its_table_of_windows(store, top):
    folder, scores = cell(store)
    lines = [line.split(",") for line in (folder / "windows.csv").read_text().splitlines()]
    assert lines[0] == [
        "id", "start", "length", "a2v_seed_0", "a2v_seed_1", "v2a_seed_0", "v2a_seed_1",
    ]  # fmt: skip
    right = [[line[1] == line[column] for line in lines[1:]] for column in (5, 6)]
    assert scores["v2a"]["exact"]["mean"] == pytest.approx(np.mean(right))


def test_a2v_gives_the_sound_and_v2a_the_picture(seen_and_heard, top):
    store, untrained = seen_and_heard, Schedule(epochs=1, batch_size=9999, learning_rate=1e-9)
    run.run_cell("distance", store.path, Path("media"), "mini", untrained, (0,))
    folder = paths.MATCHERS / "distance"
    windows = pd.read_csv(folder / "windows.csv")
    test = partial_events(store.labels != store.background, store.rows("test"))
    read = read_clips(store, test.rows, CPU, "test")
    matcher = checkpoints.read(folder / "seed-0.pt").matcher
    by_sound, by_picture = (choose(matcher, read, test, m).tolist() for m in ("audio", "visual"))
    assert by_sound != by_picture
    assert windows["a2v_seed_0"].tolist() == by_sound
    assert windows["v2a_seed_0"].tolist() == by_picture


def test_a_seed_gives_the_same_bytes_again_and_another_one_others(store, top):
    folder, _ = cell(store)
    first = [(folder / f"seed-{seed}.pt").read_bytes() for seed in (0, 1)]
    shutil.rmtree(".work")
    shutil.rmtree("data")
    cell(store)
    assert [(folder / f"seed-{seed}.pt").read_bytes() for seed in (0, 1)] == first
    assert first[0] != first[1]


def test_an_interrupted_cell_keeps_its_finished_seeds(store, top, monkeypatch):
    trained = []
    whole = run._train_one

    def stopped(name, clips, schedule, seed, file, about):
        if trained == [0]:
            trained.append("stop")
            raise KeyboardInterrupt
        trained.append(seed)
        whole(name, clips, schedule, seed, file, about)

    monkeypatch.setattr(run, "_train_one", stopped)
    with pytest.raises(KeyboardInterrupt):
        cell(store)
    assert not paths.MATCHERS.exists()
    cell(store)
    assert trained == [0, "stop", 1]


def test_a_cell_on_released_features_trains_on_the_rows_of_the_order_files(store, top, monkeypatch):
    media = orders(top / "media", test=range(6), val=range(6, 12), train=range(12, 24))
    read = []
    reader = run.read_clips

    def noted(store, rows, *others):
        read.append(rows.tolist())
        return reader(store, rows, *others)

    monkeypatch.setattr(run, "read_clips", noted)
    cell(store, source="released", media=media)
    assert read[0] == [*range(12, 24)]
    assert set(read[1]) <= set(range(6))


def test_test_clips_without_a_partial_event_are_refused(tmp_path, top):
    rows_of = [Row(f"a{k}", k % 3, 0, 10, ("train", "test", "val")[k % 3]) for k in range(9)]
    path = write_feature_store(tmp_path / "features.h5", Annotations(CATEGORIES, tuple(rows_of)))
    with pytest.raises(UserError, match=r"shorter than the clip; got 3 and 0. Add such clips"):
        cell(FeatureStore(path))


def test_a_train_split_without_an_event_is_refused(tmp_path, top):
    rows_of = [
        Row(f"a{k}", k % 3, 0, 5 * (k % 3 > 0), ("train", "test", "val")[k % 3]) for k in range(9)
    ]
    path = write_feature_store(tmp_path / "features.h5", Annotations(CATEGORIES, tuple(rows_of)))
    with pytest.raises(UserError, match=r"clips with an event in train, .*; got 0 and 3. Add such"):
        cell(FeatureStore(path))


# --- checkpoints


def test_a_checkpoint_gives_the_matcher_back(tmp_path):
    torch.manual_seed(0)
    matcher = Distance(Channels(6, 4))
    checkpoints.save(tmp_path / "seed-0.pt", "distance", matcher, {"source": "mini", "seed": 0})
    found = checkpoints.read(tmp_path / "seed-0.pt")
    assert (found.name, found.about) == ("distance", {"source": "mini", "seed": 0})
    given, searched = torch.rand(2, 4), torch.rand(5, 6)
    assert torch.equal(
        found.matcher.fits(given, searched, "audio"), matcher.fits(given, searched, "audio")
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "cace-localizer-2"}, r"expected a matcher \(cace-matcher-1\), got 'cace-loc"),
        ({"matcher": "nobody"}, "a damaged checkpoint"),
        ({"channels": {"visual": -1, "audio": 4}}, "channels: visual: "),
        ({"channels": {"visual": 7, "audio": 4}}, "not a checkpoint of AVDLN, or a damaged one"),
        ({"weights": {}}, "not a checkpoint of AVDLN, or a damaged one"),
        ({"about": {"seed": "one"}}, "about: seed"),
    ],
    ids=["localizer", "matcher", "size", "channels", "weights", "about"],
)
def test_other_files_are_refused(tmp_path, change, message):
    checkpoints.save(tmp_path / "seed-0.pt", "distance", Distance(Channels(6, 4)), {})
    content = torch.load(tmp_path / "seed-0.pt", weights_only=True)
    torch.save({**content, **change}, tmp_path / "seed-0.pt")
    with pytest.raises(UserError, match=message):
        checkpoints.read(tmp_path / "seed-0.pt")


# --- settings and table


@pytest.fixture
def at_the_top(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_distance_model_trains_as_its_authors_code_does(at_the_top):
    for few_clips in (False, True):
        schedule = schedule_of("distance", few_clips)
        assert schedule == Schedule(epochs=20, batch_size=8, learning_rate=1e-3)


def test_few_clips_change_the_batches_of_dam(at_the_top):
    sizes = [schedule_of("dam", few_clips).batch_size for few_clips in (False, True)]
    assert sizes == [64, 16]


def test_a_wrong_setting_names_its_file(top):
    file = top / "matching/settings/dam.yaml"
    file.write_text(re.sub("epochs: .*", "epochs: none", file.read_text()))
    with pytest.raises(UserError, match=r"matching/settings/dam.yaml: epochs: .* got 'none'"):
        schedule_of("dam", few_clips=False)


def measure(mean, std=0.012, low=0.4, high=0.5):
    return {"mean": mean, "std": std, "low": low, "high": high, "clips": 7}


def scores(**changes):
    found = {"exact": measure(0.47), "ends_early": measure(0.2), "overlap": measure(0.6)}
    found["inside"] = {**measure(0.1), "clips": 3}
    rule = {"exact": measure(0.468, None), "ends_early": measure(0.0, None)}
    rule |= {"inside": measure(0.0, None), "overlap": measure(None)}
    return {
        "title": "DAM", "reconstruction": "free choices", "parameters": 1234, "clips": 9,
        "skipped": {"no event": 1, "event as long as the clip": 2, "event with a gap": 0},
        "a2v": found, "v2a": {**found, "exact": measure(0.25, None, None, None)},
        "content_free": {"always the last window": rule}, **changes,
    }  # fmt: skip


def test_a_row_shows_every_measure_in_both_directions():
    free, dam = map(columns, rows({"dam": scores()}))
    assert dam == {
        "row": "DAM",
        "A2V: start": "47.0 ± 1.2 (40.0 to 50.0)",
        "V2A: start": "25.0",
        "A2V: start, event ends early": "20.0 ± 1.2 (40.0 to 50.0)",
        "V2A: start, event ends early": "20.0 ± 1.2 (40.0 to 50.0)",
        "A2V: start, event inside": "10.0 ± 1.2 (40.0 to 50.0)",
        "V2A: start, event inside": "10.0 ± 1.2 (40.0 to 50.0)",
        "A2V: overlap": "60.0 ± 1.2 (40.0 to 50.0)",
        "V2A: overlap": "60.0 ± 1.2 (40.0 to 50.0)",
        "parameters": "1,234",
        "kind": "reconstruction",
    }
    assert free["A2V: start"] == free["V2A: start"] == "46.8 (40.0 to 50.0)"
    assert free["A2V: overlap"] == "no clips"


def test_what_was_skipped_is_said():
    assert scored(scores()) == (
        "9 test clips are scored; the event ends early in 7 of them, and is inside in 3. "
        "Skipped: 1 no event; 2 event as long as the clip."
    )

"""The loop: what is learned, saved, resumed, and repeated."""

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from cace.conventions import SEGMENTS
from cace.data.annotations import Annotations
from cace.features import batches
from cace.features.batches import Batch, Split
from cace.features.store import FeatureStore
from cace.localizers import load_checkpoint
from cace.localizers.cace_net import CaceNet
from cace.localizers.parts import checkpoints
from cace.settings import LOCALIZERS, changed, load_params
from cace.system.errors import UserError
from cace.training import loop
from cace.training.loop import train_one_epoch
from cace.training.runs import Job, train_all, train_one
from tests.project import ROOT
from tests.stores import CATEGORIES, annotations, write_feature_store
from tests.trained import CPU, SCHEDULE, train, untrained


@pytest.fixture(scope="module")
def models(store, tmp_path_factory):
    """Two seeds, trained briefly."""
    folder = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        curves = train(store, folder / f"seed-{seed}", seed)
        for name, curve in curves._asdict().items():
            pd.DataFrame(curve).to_csv(folder / f"seed-{seed}" / f"{name}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def curve(models):
    return pd.read_csv(models / "seed-0" / "train.csv")


def weights_equal(one, other):
    """Whether two trainings left the same checkpoints, to the last byte."""
    names = ("best.pt", "best_on_test.pt", "last.pt")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


@pytest.mark.parametrize("name", LOCALIZERS)
def test_every_method_learns(store, tmp_path, name):
    pace = {"learning_rate": 3e-3, "epochs": 20}
    if name in ("avel", "audio", "visual"):
        pace = {"learning_rate": 1e-2, "epochs": 30}
    curve = train(
        store, tmp_path / name, name=name, settings={"width": 32}, milestones=(), **pace
    ).train
    assert curve[-1]["val_accuracy"] > 0.9 > curve[0]["val_accuracy"]


def test_the_columns_of_the_curve_are_the_terms_of_the_method(store, tmp_path):
    curve = train(store, tmp_path / "run", name="avel", settings={"width": 8}, epochs=1).train
    expected = ["epoch", "learning_rate", "loss", "segments"]
    expected += ["val_accuracy", "val_category_accuracy", "val_event_f1"]
    assert list(curve[0]) == expected
    assert curve[0]["loss"] == pytest.approx(curve[0]["segments"])


def test_the_learning_rate_halves_at_each_milestone(curve):
    assert curve["learning_rate"].tolist() == [7e-4, 7e-4, 3.5e-4, 1.75e-4]


def test_the_contrast_sets_in_after_its_share_of_the_epochs(curve):
    assert (curve["contrast"] > 0).tolist() == [False, False, True, True]


def test_the_kept_epoch_is_the_first_best_one_on_val(curve, models):
    about = checkpoints.read(models / "seed-0/best.pt").about
    best = curve["val_accuracy"].idxmax()
    assert (about["epoch"], about["accuracy"]) == (best, curve["val_accuracy"][best])
    assert about["chosen_on"] == "val"


def test_the_best_epoch_on_test_is_saved_beside_it(models):
    curve = pd.read_csv(models / "seed-0" / "test.csv")
    about = checkpoints.read(models / "seed-0/best_on_test.pt").about
    best = curve["test_accuracy"].idxmax()
    assert (about["epoch"], about["accuracy"]) == (best, curve["test_accuracy"][best])
    assert about["chosen_on"] == "test"


def test_a_checkpoint_records_its_source_and_the_categories_that_had_training_clips(tmp_path):
    # Only val and test have clips of Flute; one training clip is listed as Truck, without an event.
    rows = [
        row._replace(start=0, end=0) if (row.split, row.category) == ("train", 2) else row
        for row in annotations().rows
        if (row.split, row.category) != ("train", 1)
    ]
    store = FeatureStore(
        write_feature_store(tmp_path / "features.h5", Annotations(CATEGORIES, tuple(rows)))
    )
    train(store, tmp_path / "run", epochs=1)
    for name in ("best.pt", "best_on_test.pt", "last.pt"):
        about = checkpoints.read(tmp_path / "run" / name).about
        assert about["source"] == "folder"
        assert about["categories"] == ["Bark", "Flute", "Truck"]
        assert about["trained_categories"] == ["Bark"]


def test_the_test_split_decides_nothing_else(models, tmp_path):
    other = write_feature_store(tmp_path / "other.h5")
    with h5py.File(other, "r+") as file:
        test = file["split"].asstr()[:] == "test"
        for name in ("visual", "audio"):
            file[name][test] = file[name][test][::-1]
        file["labels"][test] = np.full((test.sum(), 10), 3)
    found = train(FeatureStore(other), tmp_path / "seed-0").train
    curve = pd.read_csv(models / "seed-0" / "train.csv")
    pd.testing.assert_frame_equal(pd.DataFrame(found).astype(float), curve.astype(float))
    for name in ("best.pt", "last.pt"):
        assert (tmp_path / "seed-0" / name).read_bytes() == (models / "seed-0" / name).read_bytes()


def test_the_checkpoint_records_whether_the_contrast_path_was_on(curve, models):
    _, localizer, about = checkpoints.read(models / "seed-0/best.pt")
    assert bool(localizer.contrast_on) == (about["epoch"] >= 2)
    assert load_checkpoint(models / "seed-0/last.pt").contrast_on


def test_the_same_seed_gives_the_same_bytes(store, models, tmp_path):
    train(store, tmp_path / "again")
    assert weights_equal(tmp_path / "again", models / "seed-0")


@pytest.mark.parametrize("epochs_before", [1, 3])
def test_an_interrupted_training_resumes_to_identical_results(
    store, models, curve, tmp_path, monkeypatch, epochs_before
):
    calls = iter(range(epochs_before))
    original = loop.train_one_epoch

    def killed(*arguments, **named):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return original(*arguments, **named)

    monkeypatch.setattr(loop, "train_one_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        train(store, tmp_path / "seed-0")
    monkeypatch.setattr(loop, "train_one_epoch", original)
    torch.rand(7)  # the random state comes from the file
    found = train(store, tmp_path / "seed-0").train
    pd.testing.assert_frame_equal(pd.DataFrame(found).astype(float), curve.astype(float))
    assert weights_equal(tmp_path / "seed-0", models / "seed-0")


def test_a_finished_training_is_not_done_again(store, models, tmp_path, monkeypatch):
    train(store, tmp_path / "seed-0")
    (tmp_path / "seed-0/last.pt").unlink()
    monkeypatch.setattr(loop, "train_one_epoch", None)
    train(store, tmp_path / "seed-0")
    assert (tmp_path / "seed-0/last.pt").read_bytes() == (models / "seed-0/last.pt").read_bytes()


def test_a_state_whose_checkpoints_are_gone_counts_for_nothing(store, models, tmp_path):
    train(store, tmp_path / "seed-0")
    (tmp_path / "seed-0/best.pt").unlink()
    train(store, tmp_path / "seed-0")
    assert (tmp_path / "seed-0/best.pt").read_bytes() == (models / "seed-0/best.pt").read_bytes()


def test_another_seed_gives_other_weights(models):
    one, two = (load_checkpoint(models / f"seed-{seed}/last.pt") for seed in (0, 1))
    assert not torch.equal(one.class_head.weight, two.class_head.weight)


def without_draws(localizer):
    """Nothing random is left in its training."""
    localizer.bece_noise = 0.0
    for module in localizer.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return localizer


def weights_after_an_epoch(store, monkeypatch, clips_at_once):
    monkeypatch.setattr(CaceNet, "clips_at_once", clips_at_once)
    torch.manual_seed(0)
    localizer = without_draws(untrained(store)).double()
    localizer.start_epoch(1.0)
    train = Split(store, "train", CPU)
    exact = Split.batch
    monkeypatch.setattr(
        Split, "batch",
        lambda self, *places: Batch(
            *(
                data.double() if torch.is_tensor(data) and data.is_floating_point() else data
                for data in exact(self, *places)
            )
        ),
    )  # fmt: skip
    optimizer = torch.optim.SGD(localizer.parameters(), lr=0.1)
    torch.manual_seed(0)
    means = train_one_epoch(localizer, train, optimizer, SCHEDULE._replace(batch_size=5), "here")
    monkeypatch.setattr(Split, "batch", exact)
    return localizer, means


def test_a_batch_computed_in_parts_is_the_batch_computed_at_once(store, monkeypatch):
    whole, whole_means = weights_after_an_epoch(store, monkeypatch, clips_at_once=5)
    parts, parts_means = weights_after_an_epoch(store, monkeypatch, clips_at_once=2)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    assert parts_means == pytest.approx(whole_means, rel=1e-6)


def test_features_that_lie_on_the_device_are_those_of_the_file(store, monkeypatch):
    places = torch.tensor([5, 0, 3])
    mapped = Split(store, "val", CPU)
    monkeypatch.setattr(batches, "room", lambda _: float("inf"))
    resident = Split(store, "val", CPU)
    assert mapped.resident is None and resident.resident is not None
    one, other = mapped.batch(places), resident.batch(places)
    for name in ("visual", "audio", "labels"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_bfloat16_is_for_the_grid_alone(store):
    localizer = untrained(store).eval()
    batch = Split(store, "val", CPU).batch(torch.arange(4))
    types = {}
    for name in ("network.visual_input", "network.visual_lstm", "class_head"):
        localizer.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: types.update(
                {name: (out[0] if isinstance(out, tuple) else out).dtype}
            )
        )
    exact = localizer(batch.visual, batch.audio)
    with loop.in_precision("bfloat16", CPU):
        out = localizer(batch.visual, batch.audio)
    assert list(types.values()) == [torch.bfloat16, torch.float32, torch.float32]
    assert not torch.equal(out.relevance, exact.relevance)
    torch.testing.assert_close(out.relevance, exact.relevance, rtol=0, atol=0.05)


def test_training_in_bfloat16_is_near_that_in_float32(store, curve, tmp_path):
    near = pd.DataFrame(train(store, tmp_path / "seed-0", precision="bfloat16").train)
    assert near["loss"].tolist() == pytest.approx(curve["loss"].tolist(), rel=0.02)
    assert near["loss"].tolist() != curve["loss"].tolist()


def test_a_silenced_modality_does_not_count(store, tmp_path):
    other = write_feature_store(tmp_path / "other.h5")
    with h5py.File(other, "r+") as file:
        file["audio"][:] = 1.0
    curves = [
        train(s, tmp_path / f"{i}", silenced="audio", epochs=1)
        for i, s in enumerate((store, FeatureStore(other)))
    ]
    assert curves[0] == curves[1]


def test_a_silent_grid_of_one_position_equals_the_complete_grid(store):
    localizer = untrained(store).eval()
    batch = next(Split(store, "val", CPU, silenced="visual").batches(4))
    grid = torch.zeros(4, *store.visual.shape[1:])
    one, all_ = localizer(batch.visual, batch.audio), localizer(grid, batch.audio)
    torch.testing.assert_close(one.relevance, all_.relevance)
    torch.testing.assert_close(one.class_logits, all_.class_logits)


def test_a_loss_that_is_not_finite_stops_training_and_leaves_nothing(tmp_path):
    path = write_feature_store(tmp_path / "features.h5")
    with h5py.File(path, "r+") as file:
        file["visual"][3] = np.nan
    with pytest.raises(UserError, match="train, run, epoch=0: the loss is nan; its terms"):
        train(FeatureStore(path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_store_without_a_split_is_refused(tmp_path):
    path = write_feature_store(tmp_path / "features.h5")
    with h5py.File(path, "r+") as file:
        file["split"][:] = "train"
    with pytest.raises(UserError, match="expected samples in split val, got none"):
        train(FeatureStore(path), tmp_path / "run")


def test_every_sample_is_in_one_batch_of_an_epoch(store):
    torch.manual_seed(0)
    split = Split(store, "train", CPU)
    visual, sizes = [], []
    for parts in split.shuffled(5, at_once=2):
        for part in parts:
            visual += [tuple(one.flatten().tolist()) for one in part.visual]
            sizes.append((len(part.labels), part.clips))
    # 12 clips: two batches of five in parts of 2, 2 and 1, and one of two.
    assert sizes == [(2, 5), (2, 5), (1, 5), (2, 5), (2, 5), (1, 5), (2, 2)]
    stored = {tuple(one.flatten().tolist()) for one in store.visual[split.rows].astype("f4")}
    assert len(visual) == 12 and set(visual) == stored


def test_a_batch_counts_its_clips_with_an_event(store):
    split = Split(store, "train", CPU)
    split.labels[0] = store.background
    assert split.batch(torch.tensor([0, 1]), torch.tensor([0, 1, 2, 3])).clips_with_event == 3
    assert split.labels.shape[1] == SEGMENTS


def test_jobs_side_by_side_end_as_one_after_the_other(store, tmp_path, monkeypatch):
    changes = {"cace_net": {"width": 32}, "train": {"epochs": 1, "batch_size": 4}}
    params = changed(load_params(ROOT), changes, where="test")
    jobs = [Job("seed-0", 0), Job("visual_only", 0, "audio")]
    monkeypatch.setenv("CACE_WORKERS", "2")
    curves = train_all(jobs, store.path, tmp_path / "together", params)
    alone = [train_one(job, store.path, tmp_path / "alone", params, CPU) for job in jobs]
    assert curves == dict(zip([job.name for job in jobs], alone, strict=True))
    for job in jobs:
        one, two = (tmp_path / place / "localizer" / job.name for place in ("together", "alone"))
        assert weights_equal(one, two)

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from cace.data.annotations import Annotations
from cace.evaluation.protocols import evaluate_runs
from cace.features import batches as splits
from cace.features.batches import Clips, Split
from cace.features.store import FeatureStore
from cace.finetuning.processes import Team
from cace.localizers import checkpoints
from cace.localizers.parts.losses import loss_terms
from cace.system.errors import UserError
from cace.training import loop as training
from cace.training.loop import (
    UNIMODAL,
    Design,
    Objective,
    build_localizer,
    contrast_gradient_share,
    fit,
    train_one_epoch,
)
from tests.stores import annotations, write_feature_store

CPU = torch.device("cpu")
DESIGN = Design(
    guidance="both", beta=0.4, psi=0.3, bece=True, bece_lambda=0.6, bece_noise=0.1,
    bece_heads="event", alpha=0.1, gamma=0.3,
)  # fmt: skip
OBJECTIVE = Objective(
    epochs=4, batch_size=4, learning_rate=7e-4, milestones=(2, 3), decay=0.5, max_grad_norm=0.5,
    contrast_start=0.5, contrast_weight=1.0, contrast_tau=0.01, contrast_form="paper",
    precision="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return FeatureStore(write_feature_store(tmp_path_factory.mktemp("store") / "features.h5"))


def train(store, into, seed=0, silenced=None, **changes):
    objective = OBJECTIVE._replace(**changes)
    return fit(
        store, into, state=into.parent / "state" / into.name, seed=seed, design=DESIGN,
        objective=objective, device=CPU, team=Team(), silenced=silenced,
    )  # fmt: skip


@pytest.fixture(scope="module")
def models(store, tmp_path_factory):
    """Two seeds and both baselines, trained briefly."""
    folder = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        fitted = train(store, folder / f"seed-{seed}", seed)
        for name, curve in fitted._asdict().items():
            pd.DataFrame(curve).to_csv(folder / f"seed-{seed}" / f"{name}.csv", index=False)
    for name, silenced in UNIMODAL.items():
        train(store, folder / name, silenced=silenced, epochs=1)
    return folder


@pytest.fixture(scope="module")
def curve(models):
    return pd.read_csv(models / "seed-0" / "curve.csv")


def test_the_localizer_learns(curve):
    assert curve["category"].iloc[-1] < 0.6 * curve["category"].iloc[0]


def test_the_learning_rate_halves_at_each_milestone(curve):
    assert curve["learning_rate"].tolist() == [7e-4, 7e-4, 3.5e-4, 1.75e-4]


def test_the_contrast_sets_in_after_its_share_of_the_epochs(curve):
    assert (curve["contrast"] > 0).tolist() == [False, False, True, True]


def test_the_kept_epoch_is_the_first_best_one_on_val(curve, models):
    about = checkpoints.read(models / "seed-0/best.pt").about
    best = curve["val_accuracy"].idxmax()
    assert (about["epoch"], about["accuracy"]) == (best, curve["val_accuracy"][best])
    assert about["chosen_on"] == "val"


def test_the_published_protocol_keeps_the_first_best_epoch_on_test(models):
    curve = pd.read_csv(models / "seed-0" / "test_curve.csv")
    about = checkpoints.read(models / "seed-0/published.pt").about
    best = curve["test_accuracy"].idxmax()
    assert (about["epoch"], about["accuracy"]) == (best, curve["test_accuracy"][best])
    assert about["chosen_on"] == "test"


def test_the_test_split_drives_nothing_but_the_published_choice(models, tmp_path):
    other = write_feature_store(tmp_path / "other.h5")
    with h5py.File(other, "r+") as file:
        test = file["split"].asstr()[:] == "test"
        for name in ("visual", "audio"):
            file[name][test] = file[name][test][::-1]
        file["labels"][test] = np.full((test.sum(), 10), 3)
    fitted = train(FeatureStore(other), tmp_path / "seed-0")
    curve = pd.read_csv(models / "seed-0" / "curve.csv")
    pd.testing.assert_frame_equal(pd.DataFrame(fitted.curve).astype(float), curve.astype(float))
    for name in ("best.pt", "last.pt"):
        assert (tmp_path / "seed-0" / name).read_bytes() == (models / "seed-0" / name).read_bytes()


def test_the_curve_says_what_the_contrast_does_while_it_is_on(curve):
    assert curve["contrast_excess"].isna().tolist() == [True, True, False, False]
    assert (curve["contrast_excess"].dropna() >= 0).all()
    assert curve["contrast_gradient"].dropna().between(0, 1, inclusive="neither").sum() == 2


def test_the_gradient_share_is_that_of_the_weighted_contrast(store):
    localizer = build_localizer(store, DESIGN)
    clips = next(Split(store, "train", CPU).batches(4))

    def shares(weight):
        torch.manual_seed(0)
        out = localizer(clips.visual, clips.audio)
        terms = loss_terms(out, clips.labels, 3, contrast=True, temperature=0.1)
        objective = OBJECTIVE._replace(contrast_weight=weight)
        return contrast_gradient_share(localizer, terms, objective)

    one, ten = shares(1.0), shares(10.0)
    # s = c / (c + o), so s / (1 - s) = c / o, and that is linear in the weight.
    assert ten / (1 - ten) == pytest.approx(10 * one / (1 - one), rel=1e-4)


def test_the_checkpoint_says_whether_the_contrast_path_was_on(curve, models):
    localizer, about = checkpoints.read(models / "seed-0/best.pt")
    assert localizer.contrast_on == (about["epoch"] >= 2)
    assert checkpoints.load(models / "seed-0/last.pt").contrast_on


def test_the_same_seed_gives_the_same_bytes(store, models, tmp_path):
    train(store, tmp_path / "again")
    for name in ("best.pt", "last.pt"):
        assert (tmp_path / "again" / name).read_bytes() == (models / "seed-0" / name).read_bytes()


@pytest.mark.parametrize("epochs_before", [1, 3])
def test_a_killed_training_goes_on_to_the_same_bytes(
    store, models, curve, tmp_path, monkeypatch, epochs_before
):
    calls = iter(range(epochs_before))
    whole = training.train_one_epoch

    def killed(*arguments, **named):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return whole(*arguments, **named)

    monkeypatch.setattr(training, "train_one_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        train(store, tmp_path / "seed-0")
    monkeypatch.setattr(training, "train_one_epoch", whole)
    torch.rand(7)  # the random state comes from the file
    fitted = train(store, tmp_path / "seed-0")
    pd.testing.assert_frame_equal(pd.DataFrame(fitted.curve).astype(float), curve.astype(float))
    for name in ("best.pt", "published.pt", "last.pt"):
        assert (tmp_path / "seed-0" / name).read_bytes() == (models / "seed-0" / name).read_bytes()


def test_a_finished_training_is_not_done_again(store, models, tmp_path, monkeypatch):
    train(store, tmp_path / "seed-0")
    (tmp_path / "seed-0/last.pt").unlink()
    monkeypatch.setattr(training, "train_one_epoch", None)
    train(store, tmp_path / "seed-0")
    assert (tmp_path / "seed-0/last.pt").read_bytes() == (models / "seed-0/last.pt").read_bytes()


def test_a_state_whose_checkpoints_are_gone_counts_for_nothing(store, models, tmp_path):
    train(store, tmp_path / "seed-0")
    (tmp_path / "seed-0/best.pt").unlink()
    train(store, tmp_path / "seed-0")
    assert (tmp_path / "seed-0/best.pt").read_bytes() == (models / "seed-0/best.pt").read_bytes()


def test_another_seed_gives_other_weights(models):
    one, two = (checkpoints.load(models / f"seed-{seed}/last.pt") for seed in (0, 1))
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
    monkeypatch.setattr(training, "CLIPS_AT_ONCE", clips_at_once)
    torch.manual_seed(0)
    localizer = without_draws(build_localizer(store, DESIGN)).double()
    localizer.contrast_on = True
    train = Split(store, "train", CPU)
    exact = Split.clips
    monkeypatch.setattr(
        Split, "clips",
        lambda self, places: Clips(
            *(data.double() if data.is_floating_point() else data for data in exact(self, places))
        ),
    )  # fmt: skip
    optimizer = torch.optim.SGD(localizer.parameters(), lr=0.1)
    objective = OBJECTIVE._replace(batch_size=5)
    means = train_one_epoch(localizer, train, optimizer, objective, Team(), [0], "here")
    monkeypatch.setattr(Split, "clips", exact)
    return localizer, means


def test_a_batch_computed_in_parts_is_the_batch_computed_whole(store, monkeypatch):
    whole, whole_means = weights_after_an_epoch(store, monkeypatch, clips_at_once=5)
    parts, parts_means = weights_after_an_epoch(store, monkeypatch, clips_at_once=2)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    del whole_means["contrast_gradient"], parts_means["contrast_gradient"]  # of the first part
    assert parts_means == pytest.approx(whole_means, rel=1e-6)


def test_features_that_lie_on_the_device_are_those_of_the_file(store, monkeypatch):
    places = torch.tensor([5, 0, 3])
    mapped = Split(store, "val", CPU)
    monkeypatch.setattr(splits, "room", lambda _: float("inf"))
    resident = Split(store, "val", CPU)
    assert mapped.resident is None and resident.resident is not None
    for one, other in zip(mapped.clips(places), resident.clips(places), strict=True):
        assert torch.equal(one, other)


def test_bfloat16_is_for_the_grid_alone(store):
    localizer = build_localizer(store, DESIGN).eval()
    clips = Split(store, "val", CPU).clips(torch.arange(4))
    seen = {}
    for name in ("visual_input", "visual_lstm", "class_head"):
        getattr(localizer, name).register_forward_hook(
            lambda _, __, out, name=name: seen.update(
                {name: (out[0] if name == "visual_lstm" else out).dtype}
            )
        )
    exact = localizer(clips.visual, clips.audio)
    with training.in_precision("bfloat16", CPU):
        out = localizer(clips.visual, clips.audio)
    assert seen == {
        "visual_input": torch.bfloat16, "visual_lstm": torch.float32, "class_head": torch.float32,
    }  # fmt: skip
    assert not torch.equal(out.relevance, exact.relevance)
    torch.testing.assert_close(out.relevance, exact.relevance, rtol=0, atol=0.02)


def test_training_in_bfloat16_is_near_that_in_float32(store, curve, tmp_path):
    near = pd.DataFrame(train(store, tmp_path / "seed-0", precision="bfloat16").curve)
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


def test_a_silent_grid_of_one_position_stands_for_the_whole_grid(store):
    localizer = build_localizer(store, DESIGN).eval()
    clips = next(Split(store, "val", CPU, silenced="visual").batches(4))
    whole = torch.zeros(4, *store.visual.shape[1:])
    one, all_ = localizer(clips.visual, clips.audio), localizer(whole, clips.audio)
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


def evaluate(store, models):
    return evaluate_runs(store, models, threshold=0.5, batch_size=4, device=CPU)


def test_metrics_agree_with_the_predictions_written_beside_them(store, models):
    result = evaluate(store, models)
    right = result.predictions["actual"] == result.predictions["predicted"]
    by_seed = right.groupby(result.predictions["seed"]).mean()
    test = result.metrics["test"]
    assert test["accuracy"] == pytest.approx(by_seed.mean())
    assert test["accuracy_std"] == pytest.approx(by_seed.std(ddof=1))
    assert (test["seeds"], test["clips"]) == (2, 6)


def test_the_per_category_table_weighs_up_to_the_accuracy(store, models):
    result = evaluate(store, models)
    table = result.per_category
    weighted = (table["recall"] * table["segments"]).sum() / table["segments"].sum()
    assert weighted == pytest.approx(result.metrics["test"]["accuracy"])
    assert table["segments"].sum() == 60


def test_all_four_baselines_are_there(store, models):
    baselines = evaluate(store, models).metrics["baselines"]
    labels = store.labels[store.rows("test")]
    assert baselines["always_background"] == np.mean(labels == 3)
    assert baselines["never_background"] == np.mean(labels != 3)
    assert 0 <= baselines["visual_only"] <= 1 and 0 <= baselines["audio_only"] <= 1


def test_the_published_figures_are_the_maxima_of_the_test_curves(store, models):
    published = evaluate(store, models).metrics["published"]
    best = [
        pd.read_csv(models / f"seed-{seed}" / "test_curve.csv")["test_accuracy"].max()
        for seed in (0, 1)
    ]
    assert published["best_of_test"] == max(best)
    assert published["mean"] == pytest.approx(np.mean(best))
    assert published["std"] == pytest.approx(np.std(best, ddof=1))


def test_a_deviation_is_unknown_for_one_seed(store, models, tmp_path):
    for name in ("seed-0", *UNIMODAL):
        (tmp_path / name).symlink_to(models / name)
    metrics = evaluate(store, tmp_path).metrics
    assert metrics["test"]["accuracy_std"] is None
    assert metrics["published"]["std"] is None


def test_the_interval_is_that_of_a_mean_over_clips(store, models):
    result = evaluate(store, models)
    table = result.predictions
    right = (table["actual"] == table["predicted"]).groupby(table["id"]).mean()
    # Resampled means of n clips spread like the deviation over the root of n.
    spread = 1.96 * right.std(ddof=0) / len(right) ** 0.5
    test = result.metrics["test"]
    assert test["accuracy_low"] <= test["accuracy"] <= test["accuracy_high"]
    assert test["accuracy_high"] - test["accuracy_low"] == pytest.approx(2 * spread, rel=0.25)


def test_one_test_clip_gives_no_interval(models, tmp_path):
    rows = [row for row in annotations().rows if row.split != "test" or row.id == "test000"]
    data = Annotations(annotations().categories, tuple(rows))
    few = FeatureStore(write_feature_store(tmp_path / "f.h5", data))
    test = evaluate(few, models).metrics["test"]
    assert (test["accuracy_low"], test["accuracy_high"]) == (None, None)


def test_a_model_of_other_features_is_refused(models, tmp_path):
    other = FeatureStore(write_feature_store(tmp_path / "f.h5", channels=(12, 8)))
    with pytest.raises(UserError, match=r"best.pt: expects .* \(16, 8, 3\), got \(12, 8, 3\)"):
        evaluate(other, models)


def test_no_model_at_all_is_refused(store, tmp_path):
    with pytest.raises(UserError, match=r"expected folders seed-<n>, got none; run `dvc repro tr"):
        evaluate(store, tmp_path)

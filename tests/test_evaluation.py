"""Test scores over seeds, and the baselines beside them."""

import json
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from cace import cli
from cace.data.annotations import Annotations
from cace.evaluation import prediction_files
from cace.evaluation.accuracy import clip_categories
from cace.evaluation.predict import load_for, predict
from cace.evaluation.protocols import evaluate_runs
from cace.features.batches import UNIMODAL, Split
from cace.features.store import FeatureStore
from cace.localizers.parts import checkpoints
from cace.localizers.parts.protocol import Localization, Localizer, Sizes
from cace.system.errors import UserError
from tests.stores import annotations, write_feature_store
from tests.trained import CPU, NAME, train, untrained


@pytest.fixture(scope="module")
def models(store, tmp_path_factory):
    """Two seeds and both baselines, trained briefly."""
    folder = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        test = train(store, folder / f"seed-{seed}", seed).test
        pd.DataFrame(test).to_csv(folder / f"seed-{seed}" / "test.csv", index=False)
    for name, silenced in UNIMODAL.items():
        train(store, folder / name, silenced=silenced, epochs=1)
    return folder


def evaluate(store, models, name=NAME):
    return evaluate_runs(
        store, models, name, supervision="full", threshold=0.5, boundary=1, device=CPU
    )


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


def test_what_is_saved_for_git_is_what_was_predicted(store, models):
    result = evaluate(store, models)
    saved = prediction_files.read(result.saved, "predictions.csv")
    names = np.array([*saved.categories, "background"])
    for seed, table in result.predictions.groupby("seed"):
        assert names[saved.labels[seed]].ravel().tolist() == table["predicted"].tolist()
        assert names[saved.actual].ravel().tolist() == table["actual"].tolist()
        assert np.repeat(saved.ids, 10).tolist() == table["id"].tolist()
    per_seed = result.metrics["per_seed"]
    for seed, category in saved.clip_category.items():
        hits = category == clip_categories(saved.actual, len(saved.categories))
        assert hits.mean() == pytest.approx(per_seed[str(seed)]["category_accuracy"])


def test_all_four_baselines_are_there(store, models):
    baselines = evaluate(store, models).metrics["baselines"]
    labels = store.labels[store.rows("test")]
    assert baselines["always_background"] == np.mean(labels == 3)
    assert baselines["never_background"] == np.mean(labels != 3)
    assert 0 <= baselines["visual_only"] <= 1 and 0 <= baselines["audio_only"] <= 1


def test_best_on_test_is_the_maximum_of_the_test_curve(store, models):
    found = evaluate(store, models).metrics["best_on_test"]
    best = [
        pd.read_csv(models / f"seed-{seed}" / "test.csv")["test_accuracy"].max() for seed in (0, 1)
    ]
    assert found["max"] == max(best)
    assert found["mean"] == pytest.approx(np.mean(best))
    assert found["std"] == pytest.approx(np.std(best, ddof=1))


def test_a_deviation_is_unknown_for_one_seed(store, models, tmp_path):
    for name in ("seed-0", *UNIMODAL):
        (tmp_path / name).symlink_to(models / name)
    metrics = evaluate(store, tmp_path).metrics
    assert metrics["test"]["accuracy_std"] is None
    assert metrics["best_on_test"]["std"] is None


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
    with pytest.raises(UserError, match=r"best.pt: expects 16 visual channels \(got 12\)"):
        evaluate(other, models)


def test_no_model_at_all_is_refused(store, tmp_path):
    with pytest.raises(UserError, match=r"expected folders seed-<n>, got none; run `dvc repro tr"):
        evaluate(store, tmp_path)


class Fixed(Localizer):
    """Answers with given scores for each clip in turn."""

    def __init__(self, relevance, class_logits):
        super().__init__(Sizes(16, 8, 3, 4), {})
        self.relevance, self.class_logits = relevance, class_logits
        self.anything = torch.nn.Parameter(torch.zeros(1))

    def forward(self, visual, audio):
        count = len(audio)
        return Localization(self.relevance[:count], self.class_logits[:count], None, {})


def test_one_category_a_clip_and_one_a_segment_are_decided_by_the_same_rule(store):
    split = Split(store, "test", CPU)
    relevance = torch.full((6, 10), -1.0)
    relevance[:, :3] = 1.0
    clip_wise = torch.tensor([0.0, 2.0, 1.0]).expand(6, 1, 3)
    found = predict(Fixed(relevance, clip_wise), split, threshold=0.5)
    assert found.labels[0].tolist() == [1, 1, 1, 3, 3, 3, 3, 3, 3, 3]
    assert found.clip_category.tolist() == [1] * 6
    segment_wise = torch.eye(3)[[0, 2, 2, 1, 1, 1, 1, 1, 1, 1]].expand(6, 10, 3)
    found = predict(Fixed(relevance, segment_wise), split, threshold=0.5)
    assert found.labels[0].tolist() == [0, 2, 2, 3, 3, 3, 3, 3, 3, 3]
    assert found.clip_category.tolist() == [2] * 6  # of most event segments
    silent = predict(Fixed(relevance - 5, segment_wise), split, threshold=0.5)
    assert silent.clip_category.tolist() == [1] * 6  # of the mean logits


def test_a_model_of_another_method_is_refused_by_name(store, models):
    with pytest.raises(
        UserError, match=r"best\.pt: expected a checkpoint of avel, got one of cace"
    ):
        evaluate(store, models, name="avel")


def test_a_model_of_another_grid_is_refused_where_its_weights_depend_on_it(store, tmp_path):
    other = FeatureStore(write_feature_store(tmp_path / "features.h5", grid=(3, 3)))
    for name, settings in (("avel", {"width": 8}), ("cace_net", {"width": 16})):
        file = tmp_path / f"{name}.pt"
        localizer = untrained(store, name=name, settings=settings)
        checkpoints.save(file, name, localizer, {"categories": list(store.categories)})
    split = Split(other, "test", CPU)
    load_for(split, tmp_path / "cace_net.pt")
    with pytest.raises(UserError, match=r"expects 4 positions \(got 9\)"):
        load_for(split, tmp_path / "avel.pt")


def test_a_checkpoint_that_names_another_grid_is_refused(store, models, tmp_path):
    other = write_feature_store(tmp_path / "features.h5", grid=(3, 3))
    file = str(models / "seed-0/best.pt")
    with pytest.raises(
        SystemExit, match="best.pt: was trained on maps of 2×2, and those of .* are 3"
    ):
        cli.main(["evaluate", "--checkpoint", file, "--features", str(other)])


@pytest.mark.parametrize("name", ["seed-0", *UNIMODAL])
def test_a_checkpoint_is_scored_with_the_modalities_that_it_was_trained_on(
    store, models, capsys, name
):
    file = models / name / "best.pt"
    cli.main(
        ["evaluate", "--checkpoint", str(file), "--features", str(store.path), "--split", "val"]
    )
    scores = json.loads(capsys.readouterr().out)
    # Training scored this very epoch on val, to choose it.
    assert scores["accuracy"] == checkpoints.read(file).about["accuracy"]
    assert (scores["silenced"], scores["supervision"]) == (UNIMODAL.get(name), "full")


def test_a_wrong_value_in_a_checkpoint_is_one_sentence_at_the_front_door(store, models, tmp_path):
    content = torch.load(models / "seed-0/best.pt", weights_only=True)
    content["about"]["frames"] = {"fps": 10**9}
    torch.save(content, file := tmp_path / "a.pt")
    with pytest.raises(SystemExit) as caught:
        cli.main(["evaluate", "--features", str(store.path), "--checkpoint", str(file)])
    assert str(caught.value) == (
        f"error: {file}, about: frames.fps: expected less than or equal to 60, got 1000000000"
    )


def test_features_that_are_no_numbers_are_not_scored(models, tmp_path):
    file = write_feature_store(tmp_path / "features.h5")
    with h5py.File(file, "r+") as changed:
        changed["audio"][-1, 3, 2] = np.nan
    with pytest.raises(UserError, match=r"features.h5: the localizer gives no numbers \(NaN\)"):
        evaluate(FeatureStore(file), models)


def test_a_checkpoint_in_the_place_of_one_of_other_modalities_is_refused(store, models, tmp_path):
    copy = shutil.copytree(models, tmp_path / "models")
    (copy / "audio_only").rename(tmp_path / "audio_only")
    shutil.copytree(copy / "seed-0", copy / "audio_only")
    with pytest.raises(UserError, match=r"audio_only/best\.pt: was trained with both modalities"):
        evaluate(store, copy)
    shutil.rmtree(copy / "seed-1")
    (tmp_path / "audio_only").rename(copy / "seed-1")
    with pytest.raises(UserError, match=r"seed-1/best\.pt: was trained with visual silenced, and"):
        evaluate(store, copy)


def test_a_checkpoint_of_other_encoders_is_refused(models, tmp_path):
    cards = {"visual": {"name": "vgg19", "sha256": "1" * 64}, "audio": {"name": "logmel"}}
    stores = []
    for name in ("trained", "same", "other"):
        file = write_feature_store(tmp_path / f"{name}.h5")
        encoders = {**cards, "visual": {**cards["visual"], "weights": f"/mine/{name}.pth"}}
        if name == "other":
            encoders["visual"]["sha256"] = "2" * 64
        with h5py.File(file, "r+") as changed:
            provenance = {**json.loads(changed.attrs["provenance"]), "encoders": encoders}
            changed.attrs["provenance"] = json.dumps(provenance)
        stores.append(FeatureStore(file))
    train(stores[0], tmp_path / "run", epochs=1)
    same, other = (Split(store, "test", CPU) for store in stores[1:])
    load_for(same, tmp_path / "run/best.pt")
    with pytest.raises(
        UserError,
        match=r"trained on visual features of vgg19 \(sha256 1{12}\), and those of .*other\.h5 are "
        r"of vgg19 \(sha256 2{12}\); run `dvc repro train`, or name the feature store",
    ):
        load_for(other, tmp_path / "run/best.pt")


def test_runs_of_before_are_still_read(store, models, tmp_path):
    copy = shutil.copytree(models, tmp_path / "models")
    for seed in (0, 1):
        (copy / f"seed-{seed}/best_on_test.pt").rename(copy / f"seed-{seed}/published.pt")
    assert evaluate(store, copy).metrics == evaluate(store, models).metrics

"""Test scores over seeds, under both protocols, and those of baselines on the same split.

honest: of the epoch that is best on val. best-on-test: of the epoch that is best on test.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from cace.conventions import THRESHOLD
from cace.evaluation import prediction_files
from cace.evaluation.accuracy import accuracy
from cace.evaluation.analysis import Analysis, analyse
from cace.evaluation.metrics import Scores, always_background, interval, never_background, score
from cace.evaluation.predict import Predictions, load_for, predict
from cace.features.batches import UNIMODAL, Split
from cace.features.store import FeatureStore
from cace.localizers import localizer_class
from cace.localizers.parts.protocol import Localizer
from cace.settings import Supervision
from cace.system.errors import UserError


class Run(NamedTuple):
    """One seed on test."""

    honest: Scores  # of best.pt, the best epoch on val
    predictions: Predictions  # of best.pt
    best_on_test: float  # accuracy of best_on_test.pt, the best epoch on test


class Evaluation(NamedTuple):
    """The results of `evaluate_runs`, as they are written."""

    metrics: dict[str, Any]
    predictions: pd.DataFrame  # one row per seed, clip and segment
    confusion: pd.DataFrame  # actual and predicted category name, one row per seed and segment
    per_category: pd.DataFrame  # one row per category: recall of its segments, over seeds
    analysis: Analysis
    saved: str  # the predictions as `prediction_files` writes them


def evaluate_runs(
    store: FeatureStore,
    models: Path,
    name: str,
    *,
    supervision: Supervision,
    threshold: float,
    boundary: int,
    device: torch.device,
) -> Evaluation:
    """Scores every seed under both protocols, and all baselines, on test.

    name, supervision: of the training; checkpoints of others are refused.
    threshold, boundary: section `evaluate` of the settings.
    """
    test = Split(store, "test", device)
    runs = evaluate_seeds(test, models, name, supervision=supervision, threshold=threshold)
    baselines = {
        "always_background": always_background(test.labels, store.background),
        "never_background": never_background(test.labels, store.background),
    }
    both = len(localizer_class(name).modalities) > 1 and supervision == "full"
    for folder, silenced in UNIMODAL.items() if both else ():
        silent = Split(store, "test", device, silenced)
        localizer = load_for(silent, models / folder / "best.pt", name)
        baselines[folder] = accuracy(predict(localizer, silent, threshold).labels, silent.labels)
    seeds = [run.predictions for run in runs.values()]
    analysis = analyse(seeds, test.labels, store.background, boundary)
    metrics = {**summary(test, runs), "baselines": baselines, **analysis.metrics}
    predictions = pd.concat(
        [prediction_table(test, seed, run.predictions) for seed, run in runs.items()],
        ignore_index=True,
    )
    confusion = predictions[["actual", "predicted"]]
    right = predictions.assign(recall=confusion["actual"] == confusion["predicted"])
    per_category = right.groupby("actual", sort=False)["recall"].agg(["mean", "size"])
    per_category = per_category.set_axis(["recall", "segments"], axis=1).reset_index(
        names="category"
    )
    per_category["segments"] //= len(runs)
    return Evaluation(
        metrics, predictions, confusion, per_category, analysis, saved_predictions(test, runs)
    )


def saved_predictions(test: Split, runs: dict[int, Run]) -> str:
    """What comparisons with other runs need, as text."""
    return prediction_files.write(
        test.store.categories,
        [test.store.ids[row] for row in test.rows],
        test.labels,
        {seed: run.predictions.labels for seed, run in runs.items()},
        {seed: run.predictions.clip_category for seed, run in runs.items()},
    )


def evaluate_seeds(
    test: Split, models: Path, name: str, *, supervision: Supervision, threshold: float
) -> dict[int, Run]:
    """Scores `best.pt` and `best_on_test.pt` of every folder `seed-<n>`.

    threshold: θ of the honest protocol; best-on-test uses that at which it chose its epochs.
    Raises: UserError if there is no seed, or a model does not fit the store.
    """
    seeds = sorted(int(folder.name.split("-")[1]) for folder in models.glob("seed-*"))
    if not seeds:
        raise UserError(f"{models}: expected folders seed-<n>, got none; run `dvc repro train`")
    runs = {}
    for seed in seeds:
        folder = models / f"seed-{seed}"
        on_val, on_test = (
            load_for(test, file, name, supervision=supervision)
            for file in (folder / "best.pt", best_on_test_file(folder))
        )
        honest, predictions = evaluate(on_val, test, threshold)
        labels = predict(on_test, test, THRESHOLD).labels
        runs[seed] = Run(honest, predictions, accuracy(labels, test.labels))
    return runs


def evaluate(localizer: Localizer, split: Split, threshold: float) -> tuple[Scores, Predictions]:
    """Scores and predictions of a localizer on a split."""
    found = predict(localizer, split, threshold)
    background = split.store.background
    return score(found.labels, split.labels, found.clip_category, background), found


def best_on_test_file(folder: Path) -> Path:
    """The checkpoint of the epoch that is best on test; `published.pt` in older folders."""
    older = folder / "published.pt"
    return older if older.exists() else folder / "best_on_test.pt"


def summary(test: Split, runs: dict[int, Run]) -> dict[str, Any]:
    """Metrics of all seeds: `test` (honest), `best_on_test`, `per_seed`.

    A deviation is that of a sample (n - 1), and None for a single seed.
    """
    metrics: dict[str, Any] = {}
    for name in Scores._fields:
        values = [getattr(run.honest, name) for run in runs.values()]
        metrics[name], metrics[f"{name}_std"] = _mean_and_deviation(values)
    right = [run.predictions.labels == test.labels for run in runs.values()]
    low, high = interval(np.mean(right, axis=(0, 2)))
    best_on_test = [run.best_on_test for run in runs.values()]
    mean, deviation = _mean_and_deviation(best_on_test)
    return {
        "test": {
            **metrics,
            "accuracy_low": low,
            "accuracy_high": high,
            "seeds": len(runs),
            "clips": len(test),
            "left_out": test.store.provenance["left_out"]["test"],
        },
        "best_on_test": {"max": max(best_on_test), "mean": mean, "std": deviation},
        "per_seed": {
            str(seed): {**run.honest._asdict(), "best_on_test_accuracy": run.best_on_test}
            for seed, run in runs.items()
        },
    }


def _mean_and_deviation(values: list[float]) -> tuple[float, float | None]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def prediction_table(split: Split, seed: int, predictions: Predictions) -> pd.DataFrame:
    """One row per segment, in the order of the split's samples."""
    names = np.array([*split.store.categories, "background"])
    count, segments = split.labels.shape
    return pd.DataFrame(
        {
            "seed": seed,
            "id": np.repeat([split.store.ids[row] for row in split.rows], segments),
            "segment": np.tile(np.arange(segments), count),
            "actual": names[split.labels.ravel()],
            "predicted": names[predictions.labels.ravel()],
            "relevance": predictions.relevance.ravel().round(4),
            "category": names[predictions.category.ravel()],
            "confidence": predictions.confidence.ravel().round(4),
        }
    )

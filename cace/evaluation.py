"""Test metrics over seeds, beside the baselines of the same split."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from cace import checkpoints
from cace.errors import UserError
from cace.features import FeatureStore
from cace.metrics import Scores, always_background, never_background, segment_predictions
from cace.training import UNIMODAL, Predictions, Split, evaluate


class Evaluation(NamedTuple):
    """What `evaluate` writes."""

    metrics: dict[str, Any]
    predictions: pd.DataFrame  # one row a seed, clip and segment
    confusion: pd.DataFrame  # actual and predicted category name, one row a seed and segment
    per_category: pd.DataFrame  # one row a category: recall of its segments, over seeds


def evaluate_runs(
    store: FeatureStore, models: Path, *, threshold: float, batch_size: int, device: torch.device
) -> Evaluation:
    """Scores the best epoch of every seed and of both one-modality baselines on test."""
    test = Split(store, "test", device)
    seeds = sorted(models.glob("seed-*"), key=lambda folder: int(folder.name.split("-")[1]))
    if not seeds:
        raise UserError(f"{models}: expected folders seed-<n>, got none; run `dvc repro train`")
    results = {
        int(folder.name.split("-")[1]): _score(store, folder, test, threshold, batch_size)
        for folder in seeds
    }
    baselines = {
        "always_background": always_background(test.labels, store.background),
        "never_background": never_background(test.labels, store.background),
    }
    for name, silenced in UNIMODAL.items():
        silent = Split(store, "test", device, silenced)
        baselines[name] = _score(store, models / name, silent, threshold, batch_size)[0].accuracy
    metrics = {
        "test": {
            **summary([scores for scores, _ in results.values()]),
            "seeds": len(results),
            "clips": len(test),
            "left_out": store.provenance["left_out"]["test"],
        },
        "baselines": baselines,
        "per_seed": {str(seed): {"accuracy": s.accuracy} for seed, (s, _) in results.items()},
    }
    predictions = pd.concat(
        [_table(store, test, seed, p, threshold) for seed, (_, p) in results.items()],
        ignore_index=True,
    )
    confusion = predictions[["actual", "predicted"]]
    right = predictions.assign(recall=confusion["actual"] == confusion["predicted"])
    per_category = right.groupby("actual", sort=False)["recall"].agg(["mean", "size"])
    per_category = per_category.set_axis(["recall", "segments"], axis=1).reset_index(
        names="category"
    )
    per_category["segments"] //= len(results)
    return Evaluation(metrics, predictions, confusion, per_category)


def _score(
    store: FeatureStore, folder: Path, split: Split, threshold: float, batch_size: int
) -> tuple[Scores, Predictions]:
    localizer, about = checkpoints.read(folder / "best.pt")
    expected = localizer.settings["visual_channels"], localizer.settings["audio_channels"]
    found = store.visual.shape[-1], store.audio.shape[-1]
    if expected != found or about["categories"] != list(store.categories):
        raise UserError(
            f"{folder / 'best.pt'}: expects (visual, audio) channels {expected} and "
            f"{len(about['categories'])} categories, got {found} and {len(store.categories)} from "
            f"{store.path}; run `dvc repro train`"
        )
    return evaluate(localizer.to(split.device), split, batch_size, threshold)


def summary(runs: list[Scores]) -> dict[str, float | None]:
    """Mean of each score over seeds, and its deviation (n - 1; None for a single seed)."""
    entries: dict[str, float | None] = {}
    for name, values in zip(Scores._fields, zip(*runs, strict=True), strict=True):
        entries[name] = float(np.mean(values))
        entries[f"{name}_std"] = float(np.std(values, ddof=1)) if len(runs) > 1 else None
    return entries


def _table(
    store: FeatureStore, split: Split, seed: int, predictions: Predictions, threshold: float
) -> pd.DataFrame:
    names = np.array([*store.categories, "background"])
    count, segments = split.labels.shape
    predicted = segment_predictions(
        predictions.relevance, predictions.category, threshold, store.background
    )
    return pd.DataFrame(
        {
            "seed": seed,
            "id": np.repeat([store.ids[row] for row in split.rows], segments),
            "segment": np.tile(np.arange(segments), count),
            "actual": names[split.labels.ravel()],
            "predicted": names[predicted.ravel()],
            "relevance": predictions.relevance.ravel().round(4),
            "category": np.repeat(names[predictions.category], segments),
            "confidence": np.repeat(predictions.confidence.round(4), segments),
        }
    )

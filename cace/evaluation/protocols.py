"""Test metrics over seeds, under both protocols, beside the baselines of the same split."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
import torch
from jaxtyping import Float, Int
from typing_extensions import Unpack

from cace.evaluation.metrics import Scores, always_background, never_background, segment_predictions
from cace.features.batches import Split
from cace.features.store import FeatureStore
from cace.localizers import checkpoints
from cace.localizers.cace_net import Localizer
from cace.localizers.checkpoints import PublishedSettings
from cace.system.errors import UserError
from cace.training.loop import CHOSEN_AT, UNIMODAL, Predictions, evaluate

CONFIDENCE = 0.95  # of the interval of the test accuracy
RESAMPLES = 10_000


class Run(NamedTuple):
    """One seed on test."""

    honest: Scores  # of best.pt, the best epoch on val
    predictions: Predictions  # of best.pt
    published: Scores  # of published.pt, the best epoch on test


class Evaluation(NamedTuple):
    """What `evaluate` writes."""

    metrics: dict[str, Any]
    predictions: pd.DataFrame  # one row a seed, clip and segment
    confusion: pd.DataFrame  # actual and predicted category name, one row a seed and segment
    per_category: pd.DataFrame  # one row a category: recall of its segments, over seeds


def evaluate_runs(
    store: FeatureStore, models: Path, *, threshold: float, batch_size: int, device: torch.device
) -> Evaluation:
    """Scores every seed under both protocols, and all baselines, on test."""
    test = Split(store, "test", device)
    runs = evaluate_seeds(test, models, threshold=threshold, batch_size=batch_size)
    baselines = {
        "always_background": always_background(test.labels, store.background),
        "never_background": never_background(test.labels, store.background),
    }
    for name, silenced in UNIMODAL.items():
        silent = Split(store, "test", device, silenced)
        localizer = load_for(silent, models / name / "best.pt")
        baselines[name] = evaluate(localizer, silent, batch_size, threshold)[0].accuracy
    metrics = {**summary(test, runs, threshold), "baselines": baselines}
    predictions = pd.concat(
        [prediction_table(test, seed, run.predictions, threshold) for seed, run in runs.items()],
        ignore_index=True,
    )
    confusion = predictions[["actual", "predicted"]]
    right = predictions.assign(recall=confusion["actual"] == confusion["predicted"])
    per_category = right.groupby("actual", sort=False)["recall"].agg(["mean", "size"])
    per_category = per_category.set_axis(["recall", "segments"], axis=1).reset_index(
        names="category"
    )
    per_category["segments"] //= len(runs)
    return Evaluation(metrics, predictions, confusion, per_category)


def evaluate_seeds(
    test: Split, models: Path, *, threshold: float, batch_size: int
) -> dict[int, Run]:
    """Scores `best.pt` and `published.pt` of every folder `seed-<n>`.

    threshold: θ of the honest protocol; the published one has that at which it chose its epochs.
    Raises: UserError where there is no seed, or a model does not fit the store.
    """
    seeds = sorted(int(folder.name.split("-")[1]) for folder in models.glob("seed-*"))
    if not seeds:
        raise UserError(f"{models}: expected folders seed-<n>, got none; run `dvc repro train`")
    runs = {}
    for seed in seeds:
        folder = models / f"seed-{seed}"
        honest = evaluate(load_for(test, folder / "best.pt"), test, batch_size, threshold)
        published = evaluate(load_for(test, folder / "published.pt"), test, batch_size, CHOSEN_AT)
        runs[seed] = Run(*honest, published[0])
    return runs


def load_for(split: Split, path: Path, **published: Unpack[PublishedSettings]) -> Localizer:
    """The localizer of a checkpoint, on the split's device.

    published: settings of a published file.
    Raises: UserError where it expects other features or categories than the split's store has.
    """
    localizer, about = checkpoints.read(path, **published)
    store = split.store
    names = ("visual_channels", "audio_channels", "categories")
    expected = tuple(localizer.settings[name] for name in names)
    found = store.visual.shape[-1], store.audio.shape[-1], len(store.categories)
    if expected != found:
        raise UserError(
            f"{path}: expects (visual channels, audio channels, categories) {expected}, got "
            f"{found} from {store.path}; run `dvc repro train`, or extract the features it needs"
        )
    # A published checkpoint says nothing about itself.
    if about.get("categories", list(store.categories)) != list(store.categories):
        raise UserError(
            f"{path}: was trained for other categories than those of {store.path}; "
            f"run `dvc repro train`"
        )
    return localizer.to(split.device)


@torch.inference_mode()
def attend(
    localizer: Localizer, split: Split, places: Sequence[int]
) -> Float[np.ndarray, "n T H W"] | None:
    """Where sound makes vision look, in the samples at these places of the split; sums to 1.

    None where sound does not guide vision.
    """
    clips = split.clips(torch.tensor(places))
    precision = next(localizer.parameters()).dtype
    attention = localizer(clips.visual.to(precision), clips.audio.to(precision)).attention
    return None if attention is None else attention.float().cpu().numpy()


def summary(test: Split, runs: dict[int, Run], threshold: float) -> dict[str, Any]:
    """Metrics of all seeds: `test` (honest), `published`, `per_seed`.

    A deviation is that of a sample (n - 1), and None for a single seed.
    """
    metrics: dict[str, Any] = {}
    for name in Scores._fields:
        values = [getattr(run.honest, name) for run in runs.values()]
        metrics[name], metrics[f"{name}_std"] = _mean_and_deviation(values)
    low, high = _interval(test, runs, threshold)
    published = [run.published.accuracy for run in runs.values()]
    mean, deviation = _mean_and_deviation(published)
    return {
        "test": {
            **metrics,
            "accuracy_low": low,
            "accuracy_high": high,
            "seeds": len(runs),
            "clips": len(test),
            "left_out": test.store.provenance["left_out"]["test"],
        },
        "published": {"best_of_test": max(published), "mean": mean, "std": deviation},
        "per_seed": {
            str(seed): {**run.honest._asdict(), "published_accuracy": run.published.accuracy}
            for seed, run in runs.items()
        },
    }


def _mean_and_deviation(values: list[float]) -> tuple[float, float | None]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def _interval(
    test: Split, runs: dict[int, Run], threshold: float
) -> tuple[float, float] | tuple[None, None]:
    """Bootstrap interval of the test accuracy: what other clips of this kind might have given.

    One clip says nothing of others.
    """
    if len(test) < 2:
        return None, None
    right = [_predicted(test, run.predictions, threshold) == test.labels for run in runs.values()]
    per_clip: Float[np.ndarray, " N"] = np.mean(right, axis=(0, 2))
    resampled = scipy.stats.bootstrap(
        (per_clip,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=0,
    )
    low, high = resampled.confidence_interval
    return float(low), float(high)


def _predicted(split: Split, predictions: Predictions, threshold: float) -> Int[np.ndarray, "N T"]:
    return segment_predictions(
        predictions.relevance, predictions.category, threshold, split.store.background
    )


def prediction_table(
    split: Split, seed: int, predictions: Predictions, threshold: float
) -> pd.DataFrame:
    """One row a segment, in the order of the split's samples."""
    names = np.array([*split.store.categories, "background"])
    count, segments = split.labels.shape
    return pd.DataFrame(
        {
            "seed": seed,
            "id": np.repeat([split.store.ids[row] for row in split.rows], segments),
            "segment": np.tile(np.arange(segments), count),
            "actual": names[split.labels.ravel()],
            "predicted": names[_predicted(split, predictions, threshold).ravel()],
            "relevance": predictions.relevance.ravel().round(4),
            "category": np.repeat(names[predictions.category], segments),
            "confidence": np.repeat(predictions.confidence.round(4), segments),
        }
    )

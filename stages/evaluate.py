"""DVC stage: test metrics over seeds, predictions, plots, and the page of the run."""

from typing import Any

import pandas as pd

from cace import paths
from cace.evaluation import prediction_files
from cace.evaluation.protocols import evaluate_runs
from cace.features.batches import Split
from cace.features.store import FeatureStore
from cace.media.store import ClipStore
from cace.report.run import run_page
from cace.settings import load_params
from cace.system.device import choose_device
from cace.system.errors import run
from cace.system.files import write_atomically, write_json
from cace.system.scratch import remove_recorded


def main() -> None:
    """Scores all trained localizers on the test split."""
    remove_recorded("dvc.yaml:evaluate")
    params = load_params()
    store = FeatureStore(paths.FEATURES)
    device = choose_device()
    result = evaluate_runs(
        store,
        paths.LOCALIZERS,
        params.localizer.name,
        supervision=params.supervision,
        threshold=params.evaluate.threshold,
        boundary=params.evaluate.boundary,
        device=device,
    )
    write_json(paths.EVAL, result.metrics)
    write_atomically(paths.PREDICTIONS / "predictions.csv", result.saved)
    write_atomically(paths.SAVED_PREDICTIONS, prediction_files.for_git(result.saved))
    for path, table in (
        (paths.PREDICTIONS / "test.csv", result.predictions),
        (paths.METRICS / "confusion.csv", result.confusion),
        (paths.METRICS / "per_category.csv", result.per_category),
        (paths.METRICS / "reliability.csv", pd.DataFrame(result.analysis.reliability).dropna()),
    ):
        write_atomically(path, table.to_csv(index=False))
    page = run_page(
        params,
        result,
        Split(store, "test", device),
        models=paths.LOCALIZERS,
        metrics=paths.METRICS,
        clips=None if params.decode is None else ClipStore(paths.CLIPS),
    )
    write_atomically(paths.PREDICTIONS / "report.html", page)
    print("\n".join(_summary(result.metrics)))


def _summary(metrics: dict[str, Any]) -> list[str]:
    test, best = metrics["test"], metrics["best_on_test"]
    seeds = f"{test['seeds']} seed{'s' * (test['seeds'] > 1)}"
    interval = f"95 % interval over clips: {_percent(test['accuracy_low'])} to "
    interval += _percent(test["accuracy_high"])
    return [
        f"segment accuracy on test, percent, {seeds}:",
        f"  honest: {_percent(test['accuracy'], test['accuracy_std'])} ({interval})",
        f"  best on test: {_percent(best['mean'], best['std'])}",
        *(f"  {name}: {_percent(accuracy)}" for name, accuracy in metrics["baselines"].items()),
    ]


def _percent(mean: float | None, deviation: float | None = None) -> str:
    shown = "unknown" if mean is None else f"{100 * mean:.1f}"
    return shown + ("" if deviation is None else f" ± {100 * deviation:.1f}")


if __name__ == "__main__":
    run(main)

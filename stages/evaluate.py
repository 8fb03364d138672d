"""DVC stage: test metrics over seeds, predictions, plots, and the page of the run."""

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
    test, baselines = result.metrics["test"], result.metrics["baselines"]
    print(f"test accuracy {test['accuracy']:.4f} over {test['seeds']} seed(s); baselines:")
    for name, accuracy in baselines.items():
        print(f"  {name}: {accuracy:.4f}")


if __name__ == "__main__":
    run(main)

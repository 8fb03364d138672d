"""DVC stage: test metrics over seeds, predictions, plots, and the page of the run."""

from pathlib import Path

from cace.evaluation.protocols import evaluate_runs
from cace.features.batches import Split
from cace.features.store import FeatureStore
from cace.media.store import ClipStore
from cace.report.run import run_page
from cace.settings import load_params
from cace.system.device import choose_device
from cace.system.errors import run
from cace.system.files import write_atomically, write_json

BATCH_SIZE = 64  # clips; the scores do not depend on it
MODELS = Path("data/models/localizer")


def main() -> None:
    """Scores all trained localizers on the test split."""
    params = load_params()
    store = FeatureStore(Path("data/features.h5"))
    device = choose_device()
    result = evaluate_runs(
        store,
        MODELS,
        threshold=params.evaluate.threshold,
        batch_size=BATCH_SIZE,
        device=device,
    )
    write_json(Path("metrics/eval.json"), result.metrics)
    for path, table in (
        ("data/predictions/test.csv", result.predictions),
        ("metrics/confusion.csv", result.confusion),
        ("metrics/per_category.csv", result.per_category),
    ):
        write_atomically(Path(path), table.to_csv(index=False))
    page = run_page(
        params,
        result,
        Split(store, "test", device),
        models=MODELS,
        metrics=Path("metrics"),
        clips=None if params.decode is None else ClipStore(Path("data/clips")),
    )
    write_atomically(Path("data/predictions/report.html"), page)
    test, baselines = result.metrics["test"], result.metrics["baselines"]
    print(f"test accuracy {test['accuracy']:.4f} over {test['seeds']} seed(s); baselines:")
    for name, accuracy in baselines.items():
        print(f"  {name}: {accuracy:.4f}")


if __name__ == "__main__":
    run(main)

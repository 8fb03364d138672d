"""DVC stage: test metrics over seeds, predictions and plots."""

from pathlib import Path

from cace.device import choose_device
from cace.errors import run
from cace.evaluation import evaluate_runs
from cace.features import FeatureStore
from cace.params import load_params
from cace.workspace import write_atomically, write_json

BATCH_SIZE = 64  # clips; the scores do not depend on it


def main() -> None:
    """Scores all trained localizers on the test split."""
    params = load_params()
    result = evaluate_runs(
        FeatureStore(Path("data/features.h5")),
        Path("data/models/localizer"),
        threshold=params.evaluate.threshold,
        batch_size=BATCH_SIZE,
        device=choose_device(),
    )
    write_json(Path("metrics/eval.json"), result.metrics)
    for path, table in (
        ("data/predictions/test.csv", result.predictions),
        ("metrics/confusion.csv", result.confusion),
        ("metrics/per_category.csv", result.per_category),
    ):
        write_atomically(Path(path), table.to_csv(index=False))
    test, baselines = result.metrics["test"], result.metrics["baselines"]
    print(f"test accuracy {test['accuracy']:.4f} over {test['seeds']} seed(s); baselines:")
    for name, accuracy in baselines.items():
        print(f"  {name}: {accuracy:.4f}")


if __name__ == "__main__":
    run(main)
